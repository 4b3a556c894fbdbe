//! The word that was probably meant.

/// Of these words, the one most like `unknown`, if it is like it at all. Case, `-`, `_` and `.` make no difference.
pub fn nearest<'a>(unknown: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '.'], "_");
    let unknown = plain(unknown);
    let distance = |word: &&str| strsim::damerau_levenshtein(&plain(word), &unknown);
    let near = words.into_iter().min_by_key(distance)?;
    // Typing errors, but no other word.
    (distance(&near) <= 1 + unknown.chars().count() / 4).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_understood() {
        let words = ["CLOSE_WAIT", "TIME_WAIT", "owner.pid", "connected"];
        for (unknown, meant) in [
            ("closewait", Some("CLOSE_WAIT")),
            ("time-wiat", Some("TIME_WAIT")),
            ("owner_pdi", Some("owner.pid")),
            ("conected", Some("connected")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(nearest(unknown, words), meant, "{unknown}");
        }
        assert_eq!(nearest("a", []), None);
    }
}
