//! `docs/troubleshooting.md` has every message that the sources write to standard error.
//!
//! Messages have no common place: each stands where it is written. So this reads the sources, and takes the texts
//! from where messages are: errors, notices, and what goes to the end of a run.

use std::{fs, path::Path};

use proc_macro2::{TokenStream, TokenTree};

/// The sources of everything that ships and speaks.
const FOLDERS: [&str; 9] = [
    "src",
    "capture/src",
    "cli/src",
    "core/src",
    "packets/src",
    "recording/src",
    "serve/src",
    "text/src",
    "top/src",
];

/// Macros and functions whose texts are messages; `error` is the attribute of an error.
const SPEAKING: [&str; 8] = [
    "anyhow",
    "bail",
    "context",
    "ensure",
    "error",
    "damage",
    "say",
    "with_context",
];

/// Files without messages: their errors are counted and never written, or they describe fields and filters.
const SILENT: [&str; 7] = [
    "cli/src/filter.rs",
    "capture/src/sockdiag/wire.rs",
    "core/src/event.rs",
    "core/src/mode.rs",
    "core/src/catalogue/packet.rs",
    "core/src/catalogue/socket.rs",
    "core/src/catalogue/transition.rs",
];

#[test]
fn every_message_is_explained() {
    let page = normalised(&page());
    let messages = texts(false);
    assert!(messages.len() > 100, "{messages:#?}");
    let missing: Vec<_> = messages
        .iter()
        .filter(|message| !parts(message).all(|part| page.contains(&part)))
        .collect();
    assert!(
        missing.is_empty(),
        "not in docs/troubleshooting.md: {missing:#?}"
    );
}

/// Headings that are no messages of the sources: two of them are names of numbers, one message is the argument parser's.
const OTHERS: [&str; 3] = [
    "`lost` is not 0",
    "`rejected` is not 0",
    "the argument '--json' cannot be used with '--csv'",
];

#[test]
fn no_message_is_explained_that_is_not_written() {
    // A message may be put together anywhere.
    let texts: Vec<(String, Vec<String>)> = texts(true)
        .iter()
        .map(|text| (normalised(text), parts(text).collect()))
        .collect();
    // A heading leaves out what differs, and sometimes the end; or it has one of the values of a placeholder.
    let is_written = |heading: &str| {
        let in_it: Vec<_> = parts(&heading.replace("...", "{}")).collect();
        let heading = normalised(heading);
        texts.iter().any(|(text, parts)| {
            let words: usize = parts.iter().map(|part| part.split(' ').count()).sum();
            let is_much = 3 * words >= heading.split(' ').count();
            in_it.iter().all(|part| text.contains(part))
                || is_much && parts.iter().all(|part| heading.contains(part))
        })
    };
    let page = page();
    let headings = page.lines().filter_map(|line| line.strip_prefix("### "));
    let gone: Vec<_> = headings
        .filter(|heading| !OTHERS.contains(heading) && !is_written(heading))
        .collect();
    assert!(
        gone.is_empty(),
        "in docs/troubleshooting.md only: {gone:#?}"
    );
}

fn page() -> String {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(package.join("../docs/troubleshooting.md")).unwrap()
}

/// The messages in the sources, or all texts.
fn texts(is_all: bool) -> Vec<String> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for folder in FOLDERS {
        read(&package.join(folder), is_all, &mut texts);
    }
    texts
}

/// The beginning of each text between placeholders. Advice is left out: it follows a semicolon or a full stop.
fn parts(message: &str) -> impl Iterator<Item = String> {
    let message = message.split("; ").next().unwrap_or_default();
    let message = message.split(". ").next().unwrap_or_default();
    let message = message.trim_start_matches("tcpstate: ");
    let parts = message
        .split('{')
        .filter_map(|part| part.split('}').next_back());
    parts.filter_map(|part| {
        let part = normalised(part);
        let words: Vec<_> = part.split(' ').take(5).collect();
        let words = words.join(" ");
        let words = words.trim_matches(|c: char| !c.is_alphanumeric());
        (!words.is_empty()).then(|| words.to_owned())
    })
}

/// Without code spans, and with one blank wherever there is space.
fn normalised(text: &str) -> String {
    let text = text.replace('`', "");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn read(folder: &Path, is_all: bool, messages: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_test = path.file_stem().is_some_and(|name| name == "tests");
        if is_test || SILENT.iter().any(|silent| path.ends_with(silent)) {
            continue;
        }
        if path.is_dir() {
            read(&path, is_all, messages);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            collect(source.parse().unwrap(), is_all, messages);
        }
    }
}

/// Adds the texts of these tokens; `is_message` says whether they are within one.
fn collect(tokens: TokenStream, is_message: bool, messages: &mut Vec<String>) {
    let mut before: Vec<String> = Vec::new();
    for token in tokens {
        let last = |nth: usize| before.iter().rev().nth(nth).map_or("", String::as_str);
        match &token {
            TokenTree::Group(group) if last(1) != "mod" || last(0) != "tests" => {
                let name = if last(0) == "!" { last(1) } else { last(0) };
                let first = group.stream().into_iter().next();
                let first = first.map_or_else(String::new, |token| token.to_string());
                let speaks = match name {
                    "push" => ["notices", "notes"].contains(&last(2)),
                    "writeln" => ["err", "stderr", "self"].contains(&&*first),
                    name => SPEAKING.contains(&name),
                };
                collect(group.stream(), is_message || speaks, messages);
            }
            // A constant too can be a message.
            TokenTree::Literal(literal) if is_message || last(0) == "=" && last(1) == "str" => {
                let text = syn::parse_str::<syn::LitStr>(&literal.to_string());
                let text = text.map(|text| text.value()).unwrap_or_default();
                let is_sentence = !text.contains('\n') && text.split(' ').count() > 5;
                if is_message || is_sentence {
                    messages.push(text);
                }
            }
            _ => {}
        }
        before.push(token.to_string());
    }
}
