use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// Characters that are not seen, or change how others are seen: `Default_Ignorable_Code_Point` and `Bidi_Control` of
/// Unicode 17 (`DerivedCoreProperties.txt`, `PropList.txt`), its annotations, and blanks.
const INVISIBLE: &[(u32, u32)] = &[
    (0x00, 0x1f),
    (0x7f, 0xa0),
    (0xad, 0xad),
    (0x34f, 0x34f),
    (0x61c, 0x61c),
    (0x115f, 0x1160),
    (0x1680, 0x1680),
    (0x17b4, 0x17b5),
    (0x180b, 0x180f),
    (0x2000, 0x200f),
    (0x2028, 0x202f),
    (0x205f, 0x206f),
    (0x2800, 0x2800),
    (0x3000, 0x3000),
    (0x3164, 0x3164),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff0, 0xfffb),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0000, 0xe0fff),
];

/// A name that somebody may give a process, a file or a cgroup.
pub(crate) fn foreign() -> impl Strategy<Value = Vec<u8>> {
    let invisible = select(INVISIBLE)
        .prop_flat_map(|(first, last)| first..=last)
        .prop_map(|code| char::from_u32(code).unwrap_or('x').to_string().into_bytes());
    let words = select(&[
        "\x1b[2J",
        "\x1b[31m",
        "\x1b]0;x\x07",
        "\\",
        "\\u{1b}",
        "\"",
        "-",
        "other",
        "+1",
        "＝",
        "=",
        "'",
        " ",
        "\n",
        "\u{301}",
        "e\u{301}",
        "\u{1161}",
        "日",
        "ß",
        "a",
    ]);
    let words = words.prop_map(|word| word.as_bytes().to_vec());
    let pieces = prop_oneof![
        invisible,
        words,
        vec(any::<u8>(), 0..4),
        any::<char>().prop_map(|c| { c.to_string().into_bytes() })
    ];
    vec(pieces, 0..6).prop_map(|pieces| pieces.concat())
}

#[test]
fn ordinary_names_are_unchanged() {
    for name in [
        "curl",
        "Web Content",
        "kworker/0:1",
        "größe",
        "e\u{301}te\u{301}",
        "日本語",
        "हिन्दी",
        "\u{1112}\u{1161}\u{11ab}",
        "🦀",
        "a,b\"c'",
    ] {
        assert_eq!(Printable(name.as_bytes()).to_string(), name);
        assert_eq!(Entry(name.as_bytes()).to_string(), name);
        assert_eq!(Cell(name.as_bytes()).to_string(), name);
    }
}

#[test]
fn harmful_characters_are_written_out() {
    for (name, written) in [
        (&b"\x1b[2J"[..], "\\u{1b}[2J"),
        (b"a\nb\tc\r", "a\\u{a}b\\u{9}c\\u{d}"),
        (b"\x7f", "\\u{7f}"),
        ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
        ("\u{202e}gpj".as_bytes(), "\\u{202e}gpj"),
        ("\u{2066}a\u{2069}".as_bytes(), "\\u{2066}a\\u{2069}"),
        ("ss\u{ad}h".as_bytes(), "ss\\u{ad}h"),
        ("\u{e0041}".as_bytes(), "\\u{e0041}"),
        ("a\u{a0}".as_bytes(), "a\\u{a0}"),
        (b"a\xff\xc3", "a\\xff\\xc3"),
        (b"\\x1b", "\\\\x1b"),
    ] {
        assert_eq!(Printable(name).to_string(), written);
    }
}

#[test]
fn a_mark_stays_with_its_letter_only() {
    for (name, written) in [
        (&b"\xcc\x81a"[..], "\\u{301}a"),
        ("a\u{301}\u{302}".as_bytes(), "a\u{301}\u{302}"),
        ("/\u{301}".as_bytes(), "/\\u{301}"),
        ("\u{ad}\u{301}".as_bytes(), "\\u{ad}\\u{301}"),
        (b"a\xff\xcc\x81", "a\\xff\\u{301}"),
        ("\u{1161}".as_bytes(), "\\u{1161}"),
    ] {
        assert_eq!(Printable(name).to_string(), written);
    }
}

#[test]
fn every_invisible_character_is_harmful() {
    for &(first, last) in INVISIBLE {
        for c in (first..=last).filter_map(char::from_u32) {
            assert!(is_harmful(c), "{c:?}");
        }
    }
}

#[test]
fn names_that_look_like_words_of_ours_are_quoted() {
    for (name, written) in [
        ("-", "\"-\""),
        ("other", "\"other\""),
        ("+3 more", "\"+3 more\""),
        ("not accepted", "\"not accepted\""),
        ("", "\"\""),
        ("sh ", "\"sh \""),
        (" sh", "\" sh\""),
        ("\"-\"", "\"\\\"-\\\"\""),
        ("\\ ", "\"\\\\ \""),
        ("--", "--"),
        ("others", "others"),
        ("a\"", "a\""),
    ] {
        assert_eq!(Entry(name.as_bytes()).to_string(), written);
    }
}

#[test]
fn formulas_are_defused() {
    for (name, written) in [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1", "' =1"),
        ("\t=1", "'\\u{9}=1"),
        ("'=1", "''=1"),
        ("＝1", "'＝1"),
        ("＋1", "'＋1"),
        ("－1", "'－1"),
        ("＠1", "'＠1"),
        ("\u{a0}=1", "'\\u{a0}=1"),
        ("\u{3000} ＝1", "'\\u{3000} ＝1"),
        ("\u{feff}=1", "'\\u{feff}=1"),
        ("1=1", "1=1"),
    ] {
        assert_eq!(Cell(name.as_bytes()).to_string(), written);
    }
}

/// The bytes that [`Printable`] wrote.
fn read(mut text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(c) = text.chars().next() {
        if let Some(rest) = text.strip_prefix("\\\\") {
            bytes.push(b'\\');
            text = rest;
        } else if let Some(rest) = text.strip_prefix("\\x") {
            bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap());
            text = &rest[2..];
        } else if let Some(rest) = text.strip_prefix("\\u{") {
            let (code, rest) = rest.split_once('}').unwrap();
            let c = char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap();
            bytes.extend(c.to_string().bytes());
            text = rest;
        } else {
            bytes.extend(c.to_string().bytes());
            text = &text[c.len_utf8()..];
        }
    }
    bytes
}

proptest! {
    #[test]
    fn nothing_harmful_of_any_name_is_left(bytes in foreign()) {
        for text in [
            Printable(&bytes).to_string(),
            Entry(&bytes).to_string(),
            Cell(&bytes).to_string(),
        ] {
            prop_assert!(!text.chars().any(is_harmful), "{text:?}");
            prop_assert!(!text.starts_with(is_attached), "{text:?}");
        }
    }

    #[test]
    fn different_names_never_look_alike(bytes in foreign(), others in foreign()) {
        prop_assert_eq!(read(&Printable(&bytes).to_string()), bytes.clone());
        if bytes != others {
            prop_assert_ne!(Entry(&bytes).to_string(), Entry(&others).to_string());
            prop_assert_ne!(Cell(&bytes).to_string(), Cell(&others).to_string());
        }
    }
}
