//! What a wiki has of its own: how its namespaces are called, and whether its language comes in variants.

/// The names of a wiki's namespaces for files, media and categories, links to which are no part of the text, and whether
/// `-{…}-` chooses between the variants of its language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wiki {
    /// As [`normal`] has them.
    hidden: Vec<String>,
    /// True where `-{…}-` is markup.
    pub(super) has_variants: bool,
}

impl Default for Wiki {
    /// A wiki of which nothing is known: it has the names that every wiki knows.
    fn default() -> Self {
        Self { hidden: EVERYWHERE.map(str::to_owned).into(), has_variants: true }
    }
}

impl Wiki {
    /// With the wiki's own names, from the header of its dump, and those that MediaWiki takes for them in its language. A
    /// header names the main ones alone; where it says nothing of the language, the aliases of all are taken.
    pub fn from_header(header: &[u8]) -> Self {
        let header = String::from_utf8_lossy(header);
        let named: Vec<String> = HIDDEN_KEYS.iter().flat_map(|key| names_of(&header, key)).collect();
        let language = language(&header);
        let mut hidden: Vec<String> = EVERYWHERE.map(str::to_owned).into();
        for (codes, names) in ALIASES {
            let names: Vec<String> = names.split(", ").map(normal).collect();
            let is_its = match &language {
                Some(code) => codes.split(' ').any(|own| own == code),
                None => named.iter().all(|name| EVERYWHERE.contains(&name.as_str())),
            };
            // Wikis that speak of themselves in another language than they say: by what they call files.
            if is_its || named.iter().any(|name| !EVERYWHERE.contains(&&**name) && names.contains(name)) {
                hidden.extend(names);
            }
        }
        hidden.extend(named);
        hidden.sort_unstable();
        hidden.dedup();
        let has_variants = language.is_none_or(|language| WITH_VARIANTS.contains(&&*language));
        Self { hidden, has_variants }
    }

    /// True where a link to `target` shows a file, or puts the page into a category, or has a namespace of that kind.
    pub(super) fn hides(&self, target: &str) -> bool {
        target.split_once(':').is_some_and(|(name, _)| self.hidden.contains(&normal(name)))
    }
}

/// Media, File, Category.
const HIDDEN_KEYS: [&str; 3] = ["-2", "6", "14"];

/// The names that MediaWiki knows in every language, `Image` from before `File` was called so.
const EVERYWHERE: [&str; 4] = ["file", "image", "media", "category"];

/// The languages whose wikis choose by `-{…}-`: those with a converter in MediaWiki. Elsewhere it is plain text, as in the
/// names of chemical compounds.
const WITH_VARIANTS: [&str; 15] =
    ["ban", "crh", "gan", "iu", "kk", "ku", "mni", "sh", "shi", "sr", "tg", "tly", "uz", "wuu", "zh"];

/// A namespace's name as it is compared, in the way of MediaWiki: any run of blanks and underscores is one blank, marks
/// of the direction of writing are passed over, and so is the case of letters.
fn normal(name: &str) -> String {
    let is_blank = |c: char| c == '_' || c == '\u{180e}' || c.is_whitespace();
    let is_seen = |c: &char| !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}');
    let seen: String = name.chars().filter(is_seen).collect();
    let words: Vec<&str> = seen.split(is_blank).filter(|word| !word.is_empty()).collect();
    words.join(" ").to_lowercase()
}

/// What the header calls the namespace `key`.
fn names_of(header: &str, key: &str) -> Option<String> {
    let element = header.split("<namespace ").skip(1).find(|rest| {
        let tag = rest.split('>').next().unwrap_or_default();
        attribute(tag, "key") == Some(key)
    })?;
    let name = element.split("</").next()?.split_once('>')?.1;
    Some(normal(&super::dump::unescape(name))).filter(|name| !name.is_empty() && !name.contains('<'))
}

/// The value of an attribute, in quotes of either kind.
fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let value = tag.split_once(&format!("{name}="))?.1;
    let quote = value.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    value[1..].split(quote).next()
}

/// The code of the wiki's language, without what stands behind a hyphen: what the dump says it is, or else what the name of
/// the wiki's database begins with (`dewiki`, `zh_yuewiki`).
fn language(header: &str) -> Option<String> {
    let says = attribute(header, "xml:lang").map(str::to_owned);
    let database = || {
        let name = header.split_once("<dbname>")?.1.split("</").next()?;
        let code = name.find("wik").map(|end| &name[..end])?;
        Some(code.trim().replace('_', "-"))
    };
    let code = says.filter(|code| !code.is_empty()).or_else(database)?;
    let first = code.split('-').next()?.to_lowercase();
    // Databases such as `commonswiki` are of no language.
    (2..=3).contains(&first.len()).then_some(first)
}

/// By language (the codes of those that share them): what MediaWiki and the wikis call the namespaces File, Media and
/// Category, the names in use now and the older ones that pages still have. From MediaWiki's `languages/messages` and the
/// wikis' own lists of aliases (`siprop=namespacealiases`).
const ALIASES: [(&str, &str); 72] = [
    ("af", "lêer, beeld, kategorie"),
    ("an", "imachen, ficheru, categoría"),
    ("ar arz ary", "ملف, صورة, وسائط, ميديا, تصنيف, فئة"),
    ("ast", "ficheru, imaxe, imaxen, archivu, medios, categoría"),
    ("az", "şəkil, fayl, mediya, kateqoriya"),
    ("ba", "файл, рәсем, изображение, медиа, категория, төркөм"),
    ("be", "файл, выява, медыя, мультымедыя, мэдыя, катэгорыя"),
    ("bg", "файл, картинка, медия, категория"),
    ("bn", "চিত্র, ছবি, ফাইল, মিডিয়া, বিষয়শ্রেণী"),
    ("br", "restr, skeudenn, rummad"),
    ("bs", "datoteka, slika, medij, mediji, kategorija"),
    ("ca", "fitxer, imatge, categoria"),
    ("ce", "файл, хlум, сурт, медиа, категори, кадегар"),
    ("ckb", "پەڕگە, وێنە, میدیا, پۆل"),
    ("cs", "soubor, obrázok, obrázek, média, kategorie"),
    ("cy", "delwedd, categori"),
    ("da", "fil, billede, kategori"),
    ("de als bar gsw ksh lb nds pdc pfl stq", "datei, bild, fichier, medium, kategorie"),
    ("el", "αρχείο, εικόνα, μέσο, μέσον, κατηγορία"),
    ("eo", "dosiero, aŭdvidaĵo, kategorio"),
    ("es", "archivo, imagen, medio, categoría, cat"),
    ("et fiu vro", "fail, pilt, meedia, kategooria"),
    ("eu", "fitxategi, irudi, kategoria"),
    ("fa glk mzn", "پرونده, تصویر, مدیا, رسانه, رسانه\u{200c}ای, رده"),
    ("fi", "tiedosto, kuva, luokka"),
    ("fr frp ln wa wo", "fichier, image, média, catégorie"),
    ("fy", "ofbyld, bestân, bestand, kategory"),
    ("ga", "íomhá, meán, catagóir"),
    ("gl", "ficheiro, imaxe, arquivo, categoría"),
    ("he yi", "קובץ, תמונה, טעקע, בילד, מדיה, מעדיע, קטגוריה, קאטעגאריע"),
    ("hi bh bho mr ne new sa", "चित्र, फ़ाइल, फाइल, सञ्चिका, सञ्चिका, संचिका, मीडिया, मिडिया, श्रेणी, वर्ग, वर्गः"),
    ("hr", "datoteka, slika, medij, mediji, kategorija"),
    ("hu", "fájl, kép, média, kategória"),
    ("hy hyw", "պատկեր, նիշք, ֆայլ, մեդիա, կատեգորիա"),
    ("id jv map min su ace ban bjn ms", "berkas, gambar, fail, imej, media, kategori"),
    ("is", "mynd, miðill, flokkur"),
    ("it fur lij lmo nap pms roa scn vec", "file, immagine, archivi, fichié, categoria, catigurìa"),
    ("ja", "ファイル, 画像, メディア, カテゴリ"),
    ("ka", "ფაილი, სურათი, მედია, კატეგორია"),
    ("kk kaa", "сурет, файл, swret, su'wret, سۋرەت, таспа, taspa, تاسپا, санат, sanat, سانات, kategoriya"),
    ("ko", "파일, 그림, 미디어, 분류"),
    ("ku", "wêne, wene, dosya, medya, kategorî"),
    ("ky", "файл, сүрөт, медиа, категория"),
    ("la", "fasciculus, imago, categoria"),
    ("lt", "vaizdas, failas, medija, kategorija"),
    ("lv", "attēls, fails, kategorija"),
    ("mk", "податотека, слика, медиум, медија, категорија"),
    ("ml", "പ്രമാണം, ചിത്രം, മീഡിയ, വർഗ്ഗം"),
    ("mn", "файл, зураг, медиа, ангилал"),
    ("nl li vls zea", "bestand, afbeelding, plaetje, categorie"),
    ("no nb nn", "fil, bilde, medium, kategori"),
    ("oc", "fichièr, imatge, mèdia, categoria"),
    ("pl csb szl", "plik, grafika, òbrôzk, kategoria"),
    ("pt", "ficheiro, imagem, arquivo, multimédia, categoria"),
    ("ro mo", "fișier, fişier, imagine, categorie"),
    ("ru", "файл, изображение, медиа, категория"),
    ("sh", "datoteka, slika, датотека, слика, mediji, medija, kategorija, категорија"),
    ("sk", "súbor, obrázok, médiá, kategória"),
    ("sl", "slika, datoteka, kategorija"),
    ("sq", "skeda, figura, media, kategoria"),
    ("sr", "датотека, слика, datoteka, slika, медиј, медија, medij, medija, категорија, kategorija"),
    ("sv", "fil, bild, kategori"),
    ("ta", "படிமம், கோப்பு, ஊடகம், பகுப்பு"),
    ("te", "దస్త్రం, బొమ్మ, ఫైలు, మీడియా, వర్గం"),
    ("th", "ไฟล์, ภาพ, สื่อ, หมวดหมู่"),
    ("tl war ceb pam", "talaksan, larawan, paypay, payl, midya, kategorya, kaarangay"),
    ("tr", "dosya, resim, ortam, medya, kategori"),
    ("tt", "файл, рәсем, räsem, медиа, төркем, törkem"),
    ("uk", "файл, зображення, изображение, медіа, категорія"),
    ("ur pnb", "ملف, فائل, تصویر, میڈیا, زمرہ, گٹھ"),
    ("vi", "tập tin, hình, phương tiện, thể loại"),
    (
        "zh cdo gan hak lzh nan wuu yue",
        "文件, 档案, 檔案, 图像, 圖像, 图片, 圖片, 檔, 档, 圖, 图, f, 媒体, 媒體, 媒体文件, 分类, 分類, cat",
    ),
];

#[cfg(test)]
mod tests {
    use super::super::wikitext::prose;
    use super::*;

    fn header(language: &str, file: &str) -> Wiki {
        let header = format!(
            "<mediawiki version=\"0.11\" xml:lang=\"{language}\">\n<siteinfo><namespaces>\
             <namespace key=\"-2\" case=\"first-letter\">Media</namespace><namespace key=\"0\" case=\"first-letter\" />\
             <namespace key=\"6\" case=\"first-letter\">{file}</namespace></namespaces></siteinfo>\n"
        );
        Wiki::from_header(header.as_bytes())
    }

    #[test]
    fn a_wiki_has_names_of_its_own_for_files() {
        let header = r#"<namespace key="6" case="first-letter">Skrá</namespace>
            <namespace case='first-letter' key='14'>Flokkur</namespace><namespace key="0" />"#;
        let names = Wiki::from_header(header.as_bytes());
        assert_eq!(prose("[[Skrá:A.jpg|mini|B]]Wort. [[Flokkur:C]][[File:D]]", &names), "Wort.\n");
        assert_ne!(prose("[[Skrá:A.jpg|mini|B]]Wort.", &Wiki::default()), "Wort.\n");
    }

    #[test]
    fn older_names_of_files_are_known_by_language() {
        let cases = [
            ("de", "Datei", "Bild"),
            ("es", "Archivo", "Imagen"),
            ("fr", "Fichier", "Image"),
            ("it", "File", "Immagine"),
            ("nl", "Bestand", "Afbeelding"),
            ("sv", "Fil", "Bild"),
            ("pt", "Ficheiro", "Imagem"),
            ("pt", "Ficheiro", "Arquivo"),
            ("ru", "Файл", "Изображение"),
            ("pl", "Plik", "Grafika"),
            ("ja", "ファイル", "画像"),
            ("zh", "File", "圖像"),
            ("zh", "File", "文件"),
            ("zh-hans", "File", "图像"),
            ("da", "Fil", "Billede"),
            ("nb", "Fil", "Bilde"),
            ("fi", "Tiedosto", "Kuva"),
            ("tr", "Dosya", "Resim"),
            ("uk", "Файл", "Зображення"),
            ("uk", "Файл", "Изображение"),
            ("hu", "Fájl", "Kép"),
            ("ro", "Fișier", "Imagine"),
            ("ca", "Fitxer", "Imatge"),
            ("eu", "Fitxategi", "Irudi"),
            ("el", "Αρχείο", "Εικόνα"),
            ("he", "קובץ", "תמונה"),
            ("ar", "ملف", "صورة"),
            ("fa", "پرونده", "تصویر"),
            ("ko", "파일", "그림"),
            ("vi", "Tập tin", "Hình"),
            ("id", "Berkas", "Gambar"),
            ("bg", "Файл", "Картинка"),
            ("sr", "Датотека", "Slika"),
            ("de-at", "Datei", "Bild"),
            ("be-tarask", "Файл", "Выява"),
        ];
        for (language, file, alias) in cases {
            let wiki = header(language, file);
            for name in [file, alias, &alias.to_uppercase(), &alias.to_lowercase(), "File", "Image"] {
                let text = format!("[[{name}:A.jpg|thumb|Eins [[b|zwei]]. Drei.]] Text.");
                assert_eq!(prose(&text, &wiki), "Text.\n", "{language}");
                // A link to the file itself, and a page that is called so.
                assert_eq!(prose(&format!("In [[:{name}:A]]."), &wiki), format!("In {name}:A.\n"));
                assert_eq!(prose(&format!("In [[{name}]]."), &wiki), format!("In {name}.\n"));
            }
        }
    }

    #[test]
    fn blanks_and_underscores_are_alike_in_a_name() {
        let wiki = header("vi", "Tập_tin");
        for name in ["Tập tin", "tập_tin", " TẬP__tin ", "\u{200e}Tập \u{a0}tin"] {
            assert_eq!(prose(&format!("[[{name}:A.jpg|nhỏ|Hình. Hai.]] Chữ."), &wiki), "Chữ.\n", "{name:?}");
        }
    }

    #[test]
    fn names_of_other_languages_are_pages() {
        let english = header("en", "File");
        assert_eq!(prose("The [[Bild: a story|story]] ends.", &english), "The story ends.\n");
        assert_eq!(prose("The [[Plik:x]] ends.", &english), "The Plik:x ends.\n");
        // By the name of the database, by what files are called, and where nothing says what the language is.
        for says in [
            "<siteinfo><dbname>dewiktionary</dbname></siteinfo>",
            "<mediawiki xml:lang=''><siteinfo><dbname>dewiki</dbname>",
            "<namespace key=\"6\">Datei</namespace>",
            "<mediawiki xml:lang=\"en\"><namespace key=\"6\">Datei</namespace>",
            "<mediawiki>",
            "",
        ] {
            let wiki = Wiki::from_header(says.as_bytes());
            assert_eq!(prose("[[Bild:A.jpg|mini|Ein Satz. Noch einer.]] Text.", &wiki), "Text.\n", "{says}");
        }
        let polish = header("pl", "Plik");
        assert_eq!(prose("W [[Bild:x]] jest.", &polish), "W Bild:x jest.\n");
    }

    #[test]
    fn variants_are_of_languages_that_have_them() {
        for (language, has) in [("zh", true), ("zh-yue", true), ("sr", true), ("en", false), ("de", false)] {
            assert_eq!(header(language, "File").has_variants, has, "{language}");
        }
        assert!(Wiki::from_header(b"<mediawiki>").has_variants);
        let compound = "The acid 2-(4-{methylamino}-benzamido)pentane is made.";
        assert_eq!(prose(compound, &header("en", "File")), format!("{compound}\n"));
    }
}
