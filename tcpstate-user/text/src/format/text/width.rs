//! Text in a given number of a terminal's columns.

use unicode_width::UnicodeWidthChar as _;

use super::Align;

/// The mark of what was cut.
const CUT: &str = "..";

/// A text in exactly so many columns: cut, or with blanks.
pub fn fitted(text: &str, room: usize, align: Align) -> String {
    let mut line = text.as_bytes().to_vec();
    cut(&mut line, 0, room);
    let blanks = " ".repeat(room.saturating_sub(width(&line)));
    let text = String::from_utf8_lossy(&line);
    match align {
        Align::Left => format!("{text}{blanks}"),
        Align::Right => format!("{blanks}{text}"),
    }
}

/// The columns that text takes on a terminal.
pub(super) fn width(text: &[u8]) -> usize {
    // This check takes eight bytes at a time.
    if text.is_ascii() {
        return text.len();
    }
    let characters = String::from_utf8_lossy(text);
    characters.chars().map(|one| one.width().unwrap_or(0)).sum()
}

/// Cuts what follows `start` in the line, so that at most `room` columns are left.
pub(super) fn cut(line: &mut Vec<u8>, start: usize, room: usize) {
    // No character has more columns than bytes.
    let is_long = |cell: &&[u8]| cell.len() > room && width(cell) > room;
    let Some(cell) = line.get(start..).filter(is_long) else {
        return;
    };
    let cell = String::from_utf8_lossy(cell);
    let kept = head(&cell, room.saturating_sub(CUT.len())).to_owned();
    line.truncate(start);
    line.extend_from_slice(kept.as_bytes());
    line.extend(CUT.bytes().take(room));
}

/// The first characters, as many as `room` columns hold.
fn head(text: &str, room: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|&(_, one)| {
        used += one.width().unwrap_or(0);
        used > room
    });
    end.map_or(text, |(end, _)| text.get(..end).unwrap_or_default())
}

/// The last characters, as many as `room` columns hold.
fn tail(text: &str, room: usize) -> &str {
    let mut used = 0;
    let begin = text.char_indices().rev().find(|&(_, one)| {
        used += one.width().unwrap_or(0);
        used > room
    });
    begin.map_or(text, |(at, one)| {
        text.get(at + one.len_utf8()..).unwrap_or_default()
    })
}

/// Both ends of a text, which say more than its middle.
pub(crate) fn both_ends(text: &str, room: usize) -> String {
    if width(text.as_bytes()) <= room {
        return text.to_owned();
    }
    let room = room.saturating_sub(CUT.len());
    let end = room.div_ceil(2);
    format!("{}{CUT}{}", head(text, room - end), tail(text, end))
}

/// The end of a path, its most telling part, in at most `room` columns: whole names if the last one fits.
pub(crate) fn right_end(path: &str, room: usize) -> String {
    if width(path.as_bytes()) <= room {
        return path.to_owned();
    }
    let end = tail(path, room.saturating_sub(CUT.len()));
    // A name cut in two says less than none; but the last one must stay.
    match end.split_once('/') {
        Some((cut, whole)) if !cut.is_empty() => format!("{CUT}/{whole}"),
        _ => format!("{CUT}{end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_path_the_end_is_kept() {
        for (path, expected) in [
            ("/", "/"),
            ("/user.slice/a.b", "/user.slice/a.b"),
            ("/system.slice/nginx.service", "..nginx.service"),
            ("/system.slice/ssh.service", "../ssh.service"),
            ("/a/system.slice/x.y", "../x.y"),
            ("/docker/0123456789abcdef0123", "..789abcdef0123"),
            ("/größe/größengrößengrößen", "..ngrößengrößen"),
        ] {
            let end = right_end(path, 15);
            assert!(end.chars().count() <= 15, "{end}");
            assert_eq!(end, expected, "{path}");
        }
    }

    #[test]
    fn a_cell_is_cut_to_its_room() {
        for (text, room, expected) in [
            ("abcdef", 6, "abcdef"),
            ("abcdef", 5, "abc.."),
            ("abcdef", 2, ".."),
            ("abcdef", 1, "."),
            ("abcdef", 0, ""),
            // Two columns each.
            ("接続接続", 8, "接続接続"),
            ("接続接続", 7, "接続.."),
            ("größer", 5, "grö.."),
        ] {
            let mut line = format!("x {text}").into_bytes();
            cut(&mut line, 2, room);
            assert_eq!(String::from_utf8(line).unwrap(), format!("x {expected}"));
        }
    }

    #[test]
    fn a_text_takes_its_columns() {
        for (text, align, expected) in [
            ("ab", Align::Left, "ab   "),
            ("ab", Align::Right, "   ab"),
            ("abcdef", Align::Right, "abc.."),
            ("接続接続", Align::Left, "接.. "),
        ] {
            assert_eq!(fitted(text, 5, align), expected);
        }
    }

    #[test]
    fn of_an_address_both_ends_are_kept() {
        assert_eq!(both_ends("2001:db8::1", 11), "2001:db8::1");
        assert_eq!(both_ends("2001:db8::1", 9), "200..8::1");
        assert_eq!(both_ends("2001:db8::1", 0), "..");
    }
}
