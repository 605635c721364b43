//! Words in the variants of a language, `-{zh-hans:计算机; zh-hant:電腦}-`, as MediaWiki's converter reads them
//! (`includes/language/ConverterRule.php`), for a reader of whichever variant is named first. What is not between `-{` and
//! `}-` stays in the script that it was written in.

use super::templates::Rendered;

/// The languages whose variants a rule may name, with or without a script or country behind a hyphen.
const LANGUAGES: [&str; 20] = [
    "ban", "bho", "crh", "en", "gan", "ha", "ike", "iu", "kk", "ku", "mni", "sh", "shi", "sr", "tg", "tly",
    "uz", "wuu", "zgh", "zh",
];

/// What becomes of `inside`, which stood between `-{` and `}-`.
pub(super) fn render(inside: &str) -> Rendered {
    let (flags, rules) = match inside.split_once('|') {
        Some((flags, rules)) => {
            (flags.split(';').map(str::trim).filter(|flag| is_flag(flag)).collect(), rules)
        }
        None => (Vec::new(), inside),
    };
    let has = |flag: &str| flags.contains(&flag);
    if flags.is_empty() {
        return chosen(rules);
    }
    match () {
        // As it stands, for every variant or for some.
        () if has("R") => Rendered::Text(rules.to_owned()),
        // The name of a variant, and a description of the rule: words that are not here.
        () if has("N") => Rendered::Hole,
        // For what stands elsewhere in the article, and for its title.
        () if has("-") || has("H") || flags == ["T"] => Rendered::Nothing,
        () if has("D") => Rendered::Hole,
        () if has("A") || has("S") => chosen(rules),
        () if flags.iter().all(|flag| is_variant(flag)) => Rendered::Text(rules.to_owned()),
        () => Rendered::Nothing,
    }
}

fn is_flag(flag: &str) -> bool {
    ["A", "D", "H", "N", "R", "S", "T", "+", "-"].contains(&flag) || is_variant(flag)
}

/// True for `zh`, `zh-hans`, `sr-ec`, …, in any case.
fn is_variant(code: &str) -> bool {
    let code = code.to_ascii_lowercase();
    let (language, rest) = code.split_once('-').unwrap_or((&code, ""));
    LANGUAGES.contains(&language) && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The words of the first variant in `rules`; all of it where it does not name variants.
fn chosen(rules: &str) -> Rendered {
    let (mut both_ways, mut one_way) = (None, None);
    for rule in split(rules) {
        let Some((variant, words)) = rule.split_once(':') else { continue };
        let (place, variant) = match variant.split_once("=>") {
            Some((_, variant)) => (&mut one_way, variant),
            None => (&mut both_ways, variant),
        };
        if !is_variant(variant.trim()) {
            return Rendered::Text(rules.to_owned());
        }
        let words = words.trim();
        if !words.is_empty() {
            place.get_or_insert(words);
        }
    }
    Rendered::Text(both_ways.or(one_way).unwrap_or(rules).to_owned())
}

/// The rules one by one: a semicolon ends one only where a variant is named behind it, or nothing.
fn split(rules: &str) -> Vec<&str> {
    let names_variant = |rest: &str| {
        let name = rest.split([':', ';']).next().unwrap_or_default();
        let has_words = rest[name.len()..].starts_with(':');
        has_words && is_variant(name.rsplit("=>").next().unwrap_or(name).trim())
    };
    let mut pieces = Vec::new();
    let mut start = 0;
    for (at, _) in rules.match_indices(';') {
        let rest = rules[at + 1..].trim_start();
        if rest.is_empty() || names_variant(rest) {
            pieces.push(&rules[start..at]);
            start = at + 1;
        }
    }
    pieces.push(&rules[start..]);
    pieces
}

#[cfg(test)]
mod tests {
    use super::super::wiki::Wiki;
    use super::super::wikitext::{HOLE, prose};

    #[test]
    fn the_first_variant_is_kept() {
        let cases = [
            ("这台-{zh-hans:计算机; zh-hant:電腦}-坏了。", "这台计算机坏了。"),
            ("这台-{zh-hant:電腦;zh-hans:计算机;}-坏了。", "这台電腦坏了。"),
            ("-{ zh-cn : 软件 ; zh-tw : 軟體 ; zh-hk:軟件 }-很好。", "软件很好。"),
            ("-{zh-cn:; zh-tw:軟體}-很好。", "軟體很好。"),
            ("Реч -{sr-ec:лак; sr-el:lak}- је ту.", "Реч лак је ту."),
            ("Остаје -{Microsoft Windows}- овде.", "Остаје Microsoft Windows овде."),
            ("A-{B}-C-{D}-E.", "ABCDE."),
            ("-{|原文}-不变。", "原文不变。"),
            ("-{R|zh-hans:A;zh-hant:B}-不变。", "zh-hans:A;zh-hant:B不变。"),
            ("-{zh-hans;zh-hant|字}-不变。", "字不变。"),
            ("-{A|zh-hans:博客; zh-hant:網誌}-很多。", "博客很多。"),
            ("-{A|博客}-很多。", "博客很多。"),
            ("-{S|zh-hans:博客; zh-hant:網誌}-很多。", "博客很多。"),
            ("-{T|zh-hans:标题; zh-hant:標題}-正文。", "正文。"),
            ("-{T|}-正文。", "正文。"),
            ("-{H|zh-cn:博客; zh-tw:部落格}-正文。", "正文。"),
            ("-{H|巨集=>zh-cn:宏;}-正文。", "正文。"),
            ("-{-|zh-cn:博客; zh-tw:部落格}-正文。", "正文。"),
            ("-{+|zh-cn:博客; zh-tw:部落格}-正文。", "正文。"),
            ("-{巨集=>zh-cn:宏; 巨集=>zh-sg:宏集}-正文。", "宏正文。"),
            // A semicolon and a colon are words where no variant is named.
            ("-{zh-hans:甲;乙; zh-hant:丙}-。字", "甲;乙。字"),
            ("-{比例 1:2; 更多}-。", "比例 1:2; 更多。"),
            ("-{zh-hans:时间 1:2; zh-hant:時間}-。", "时间 1:2。"),
            // Other markup in it, and it in other markup.
            ("-{zh-hans:[[电脑|计算机]]; zh-hant:[[電腦]]}-坏了。", "计算机坏了。"),
            ("-{zh-hans:'''甲'''; zh-hant:乙}-坏了。", "甲坏了。"),
            ("[[页面|-{zh-hans:甲; zh-hant:乙}-]]坏了。", "甲坏了。"),
            ("{{lang|zh|-{zh-hans:甲; zh-hant:乙}-}}坏了。", "甲坏了。"),
            ("-{zh-hans:{{lang|zh|甲}}; zh-hant:{{lang|zh|乙}}}-坏了。", "甲坏了。"),
            ("-{zh-hans:甲-{zh-hans:子; zh-hant:丑}-; zh-hant:乙}-坏了。", "甲子坏了。"),
            ("-{-{甲}-}-坏了。", "甲坏了。"),
            ("[[File:A.jpg|thumb|-{zh-hans:图。说明。; zh-hant:圖。說明。}-]]正文。", "正文。"),
            ("-{zh-hans:多\n行; zh-hant:乙}-。", "多 行。"),
            // Two braces behind a hyphen are a template, and a brace by itself is one.
            ("甲-{{lang|zh|乙}}-丙。", "甲-乙-丙。"),
            ("甲{乙}丙。", "甲{乙}丙。"),
            ("甲-乙}-丙。", "甲-乙}-丙。"),
        ];
        for (wikitext, expected) in cases {
            assert_eq!(prose(wikitext, &Wiki::default()).trim_end(), expected, "{wikitext}");
        }
    }

    #[test]
    fn what_has_no_words_here_or_does_not_close_leaves_a_hole() {
        for wikitext in [
            "这台-{zh-hans:计算机坏了。",
            "叫-{N|zh-cn}-的字。",
            "有-{D|zh-cn:甲; zh-tw:乙}-的字。",
            "这{{a|-{甲}}乙}-丙。",
        ] {
            let prose = prose(wikitext, &Wiki::default());
            assert!(prose.contains(HOLE), "{wikitext}: {prose}");
        }
    }
}
