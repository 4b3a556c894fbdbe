//! The keys that the help lists, and those that were pressed.

use anyhow::{Context as _, Result, ensure};

use super::terminal::Top;

/// The keys of each line of the help, as a terminal sends them.
const KEYS: [(&str, &[&str]); 28] = [
    ("? q", &["?", "q"]),
    ("1 .. 5", &["1", "2", "3", "4", "5"]),
    ("Tab", &["\t", "\x1b[Z"]),
    ("j k", &["j", "k", "\x1b[A", "\x1b[B", WHEEL_UP, WHEEL_DOWN]),
    ("g G", &["g", "G"]),
    ("PgDn PgUp", &["\x1b[6~", "\x1b[5~"]),
    ("Enter", &["\r", CLICK]),
    ("Esc", &["\x1b"]),
    ("e", &["e"]),
    ("/", &["/"]),
    ("c", &["c"]),
    ("Ctrl-W", &["\x17", "\x15"]),
    ("Space", &[" "]),
    ("s S", &["s", "S"]),
    ("b B", &["b", "B"]),
    ("h l", &["h", "l", "\x1b[C", "\x1b[D"]),
    ("p P", &["p", "P"]),
    ("o", &["o"]),
    ("w", &["w"]),
    ("W", &["W"]),
    ("Ctrl-L", &["\x0c"]),
    ("Ctrl-Z", &["\x1a"]),
    // With it the terminal keeps the mouse for itself.
    ("Shift", &[]),
    // Of a recording that is played.
    (". ,", &[".", ","]),
    ("< >", &["<", ">"]),
    ("t", &["t"]),
    ("n", &["n"]),
    ("[ ]", &["[", "]"]),
];

/// The begin of what a mouse sends.
const CLICK: &str = "\x1b[<0;";
const WHEEL_UP: &str = "\x1b[<64;";
const WHEEL_DOWN: &str = "\x1b[<65;";

/// The keys in the page of help, which ends with this text.
pub fn read(top: &mut Top, last: &str) -> Result<Vec<String>> {
    top.press("?")?;
    // The line below is drawn last.
    top.await_text("[help]")?;
    let mut listed = labels(&top.contents());
    // Two pages have all of it. The last line is drawn last.
    top.press("G")?;
    top.await_text(last)?;
    listed.extend(labels(&top.contents()));
    listed.sort_unstable();
    listed.dedup();
    top.escape()?;
    top.await_screen("the help is left", |screen| !screen.contains("[help]"))?;
    Ok(listed)
}

/// The labels of the lines: the lines that go on have none.
fn labels(screen: &str) -> Vec<String> {
    let lines = screen.lines().filter(|line| line.starts_with(' '));
    let labels = lines.filter_map(|line| Some(line.get(1..11)?.trim().to_owned()));
    labels.filter(|label| !label.is_empty()).collect()
}

/// Every one of these keys was pressed, alone: a letter in a text that was typed in is no key.
pub fn ensure_pressed(listed: &[String], pressed: &[String]) -> Result<()> {
    ensure!(listed.len() > 20, "{listed:?}");
    for label in listed {
        let of_label = KEYS.iter().find(|(known, _)| known == label);
        let (_, keys) = of_label.with_context(|| format!("the help lists {label}"))?;
        for &key in *keys {
            let is_mouse = [CLICK, WHEEL_UP, WHEEL_DOWN].contains(&key);
            let is_key = |once: &String| {
                let is_alone = !once.is_empty() && once.replace(key, "").is_empty();
                is_alone || is_mouse && once.starts_with(key)
            };
            ensure!(
                pressed.iter().any(is_key),
                "{key:?} of {label} was not pressed"
            );
        }
    }
    Ok(())
}
