//! The wikitext of a page, to prose and to sentences.
#![no_main]

use jumplens::corpus::Wiki;
use jumplens::corpus::segmentation::sentences;
use jumplens::corpus::wikitext::prose;

libfuzzer_sys::fuzz_target!(|text: &str| {
    jumplens_fuzz::limit(jumplens_fuzz::bound(text.len()));
    let wiki = Wiki::default();
    let prose = prose(text, &wiki);
    assert!(prose.len() <= 4 * text.len() + 4, "more comes out than is there");
    for paragraph in prose.lines() {
        assert_eq!(paragraph, paragraph.trim());
        let left = ["{{", "}}", "[[", "]]", "{|", "|}"].into_iter().find(|markup| paragraph.contains(markup));
        assert_eq!(left, None, "{paragraph:?}");
        let sentences = sentences(paragraph).map(|sentence| sentence.text.len()).sum::<usize>();
        assert!(sentences <= paragraph.len());
    }
});
