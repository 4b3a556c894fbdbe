//! SECURITY.md is true: its table of `unsafe` matches the sources that ship, and names that others chose reach
//! neither a terminal nor a spreadsheet as they are.

#[path = "support/golden.rs"]
#[expect(dead_code, reason = "these tests compare no files")]
mod support;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use tcpstate_core::{
    event::Event,
    names::{NameBook, Names},
    origin::Origin,
};
use tcpstate_recording::{Options, Writer};

/// The source folders of the workspace's members, except xtask, which does not ship.
fn shipped_sources(workspace: &Path) -> Vec<PathBuf> {
    let manifest = fs::read_to_string(workspace.join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let members = members.iter().map(|member| member.as_str().unwrap());
    members
        .filter(|member| !member.starts_with("xtask"))
        .map(|member| workspace.join(member).join("src"))
        .collect()
}

#[test]
fn every_unsafe_is_listed() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in shipped_sources(&workspace) {
        find(&folder, &mut files);
    }
    let mut found = BTreeMap::new();
    for file in files {
        let count = count(&fs::read_to_string(&file).unwrap());
        if count != 0 {
            let name = file.strip_prefix(&workspace).unwrap();
            found.insert(name.display().to_string(), count);
        }
    }
    let page = fs::read_to_string(workspace.join("SECURITY.md")).unwrap();
    assert_eq!(listed(&page), found, "SECURITY.md differs from the sources");
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}

/// The number of `unsafe` blocks, functions and implementations, comments left out.
fn count(source: &str) -> usize {
    let code = source.lines().filter_map(|line| line.split("//").next());
    code.map(|line| {
        let kinds = ["unsafe {", "unsafe fn ", "unsafe impl "];
        kinds
            .map(|kind| line.matches(kind).count())
            .iter()
            .sum::<usize>()
    })
    .sum()
}

/// The rows that begin with a source file and a number.
fn listed(page: &str) -> BTreeMap<String, usize> {
    page.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let file = cells.next()?.strip_suffix('`')?;
            let count = cells.next()?.parse().ok()?;
            Some((file.to_owned(), count))
        })
        .collect()
}

#[test]
fn comments_do_not_count() {
    assert_eq!(
        count("// unsafe {\nunsafe { a } // unsafe {\nunsafe fn b() {}"),
        2
    );
}

/// Names of files, processes and cgroups that must not arrive as they are: each has a harmful character, and all but
/// the last forge a line.
const NAMES: [&[u8]; 5] = [
    b"\x1b[2J\x1b[31m\nFORGED",
    b"\xff\xc2\x9b\x07\nFORGED",
    "\u{202e}\u{ad}\u{34f}\u{115f}\nFORGED".as_bytes(),
    "\u{fe0f}\u{fffa}\u{e0041}\nFORGED".as_bytes(),
    "\u{301}a\u{a0}\r".as_bytes(),
];

/// Fails where the text has a character that a terminal does not show itself, or a line that no program wrote.
fn check(bytes: &[u8], what: &dyn std::fmt::Debug) {
    let text = std::str::from_utf8(bytes).expect("output is UTF-8");
    let harmful = text.chars().find(|&c| {
        let invisible = matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
        // No name here has a mark behind a letter.
        c != '\n' && (c.is_control() || invisible || c == '\u{a0}' || c == '\u{301}')
    });
    assert_eq!(harmful, None, "{what:?}: {text:?}");
    assert!(
        !text.lines().any(|line| line.starts_with("FORGED")),
        "{what:?}: {text:?}"
    );
}

/// Runs the program under a name, and checks all that it writes.
fn run(name: &OsStr, arguments: &[&OsStr]) -> std::process::Output {
    let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .arg0(name)
        .args(arguments)
        .output()
        .unwrap();
    check(&output.stdout, &arguments);
    check(&output.stderr, &arguments);
    output
}

/// A recording in a file of this name, made where and of whom is called so too.
fn record(path: &Path, name: &[u8]) {
    let text = String::from_utf8_lossy(name);
    let origin = Origin {
        host: text.to_string(),
        kernel: text.to_string(),
        filters: text.to_string(),
        ..support::origin()
    };
    let book = NameBook::default();
    book.add_paths([(support::CGROUP, &*text)]);
    let mut events = support::events();
    for event in &mut events {
        let mut record = *event.record();
        if event.process().is_some() {
            record.comm = [0; 16];
            let length = name.len().min(15);
            record.comm[..length].copy_from_slice(&name[..length]);
        }
        *event = Event::try_from(record).unwrap();
    }
    let mut writer = Writer::create(path, &origin, Options::default())
        .unwrap()
        .naming(Names::new(Arc::new(book)));
    writer.append(&events, support::end().now_ns).unwrap();
    writer.finish(None, None).unwrap();
}

/// Makes the recording's header that of another program, which is called so.
fn of_another_program(path: &Path, name: &[u8]) {
    let mut file = fs::read(path).unwrap();
    let length = u32::from_le_bytes(file[12..16].try_into().unwrap()) as usize;
    let mut metadata: serde_json::Value = serde_json::from_slice(&file[24..24 + length]).unwrap();
    metadata["writer"] = String::from_utf8_lossy(name).into();
    metadata["groups"][0][0][1] = 5.into();
    let metadata = serde_json::to_vec(&metadata).unwrap();
    file[12..16].copy_from_slice(&u32::try_from(metadata.len()).unwrap().to_le_bytes());
    file[16..20].copy_from_slice(&crc32c::crc32c(&metadata).to_le_bytes());
    let sum = crc32c::crc32c(&file[..20]);
    file[20..24].copy_from_slice(&sum.to_le_bytes());
    file.splice(24..24 + length, metadata);
    fs::write(path, file).unwrap();
}

#[test]
fn names_in_a_recording_and_of_it_are_harmless() {
    let directory = tempfile::tempdir().unwrap();
    for name in NAMES {
        let path = directory.path().join(OsStr::from_bytes(name));
        record(&path, name);
        let copy = directory.path().join("copy-").into_os_string();
        let copy = [copy.as_bytes(), name].concat();
        for command in [
            &["trace"][..],
            &["life"],
            &["life", "--live"],
            &["hist"],
            &["rates", "--by", "comm"],
            &["rates", "--by", "cgroup"],
            &["record", "-w"],
        ] {
            let record = [OsStr::from_bytes(&copy)];
            let words = command.iter().map(OsStr::new);
            let words: Vec<&OsStr> = words
                .chain(record.into_iter().filter(|_| command[0] == "record"))
                .chain([OsStr::new("-r"), path.as_os_str()])
                .collect();
            for format in [None, Some("--json"), Some("--csv")] {
                if (command[0], format) == ("record", Some("--csv")) {
                    continue;
                }
                let words = [
                    &words[..],
                    &format.map(OsStr::new).into_iter().collect::<Vec<_>>(),
                ]
                .concat();
                let output = run(OsStr::new("tcpstate"), &words);
                // The recording has no end, so that it is incomplete.
                let is_read = matches!(output.status.code(), Some(0 | 3));
                assert!(is_read, "{words:?}: {output:?}");
            }
        }
        of_another_program(&path, name);
        let output = run(
            OsStr::new("tcpstate"),
            &[OsStr::new("trace"), OsStr::new("-r"), path.as_os_str()],
        );
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("written by `"), "{message}");
    }
}

#[test]
fn names_in_errors_are_harmless() {
    let directory = tempfile::tempdir().unwrap();
    for name in NAMES {
        let missing = directory.path().join(OsStr::from_bytes(name)).join("x");
        let namespace = OsString::from_vec([b"./", name].concat());
        for arguments in [
            ["trace", "-r"],
            ["record", "-w"],
            ["trace", "--cgroup"],
            ["ls", "--netns"],
            ["trace", "--netns"],
            ["trace", "--state"],
            ["trace", "--pid"],
            ["trace", "--uid"],
            ["trace", "--no-such-option"],
            ["trace", "trace"],
        ] {
            for value in [missing.as_os_str(), OsStr::from_bytes(name), &namespace] {
                let [command, option] = arguments.map(OsStr::new);
                let mut words = vec![command, option, value];
                if command == "record" {
                    words.extend(["-r", "/dev/null"].map(OsStr::new));
                }
                let output = run(OsStr::new("tcpstate"), &words);
                let failed = matches!(output.status.code(), Some(1 | 2));
                assert!(failed && !output.stderr.is_empty(), "{words:?}: {output:?}");
            }
        }
        for words in [&["--help"][..], &["trace", "--help"], &["--version"], &[]] {
            let words: Vec<_> = words.iter().map(OsStr::new).collect();
            run(OsStr::from_bytes(name), &words);
        }
    }
}
