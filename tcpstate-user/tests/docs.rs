//! The documents agree with the code.
//!
//! `TCPSTATE_BLESS=1 cargo test -p tcpstate --test docs` writes `docs/fields.md`, `docs/causes.md`, `docs/states.md`,
//! `docs/diagnosis.md`, `docs/metrics.md` and `docs/api.md` anew.

#[cfg(feature = "serve")]
#[path = "support/api.rs"]
mod api;
#[path = "support/causes.rs"]
mod causes;
#[path = "support/fields.rs"]
mod fields;
#[path = "support/findings.rs"]
mod findings;
#[cfg(feature = "serve")]
#[path = "support/metrics.rs"]
mod metrics;
#[path = "support/states.rs"]
mod states;

use std::{io, path::Path};

use self::findings::situations::SITUATIONS;

use clap::Parser as _;
use tcpstate::run::descriptors::TooFewDescriptors;
use tcpstate_capture::{
    CaptureError,
    cgroups::CgroupError,
    error::{BtfError, MapUseError},
    layout::{LayoutError, Place, Shape},
    netns::NetnsError,
    sockdiag::DumpError,
};
use tcpstate_cli::{
    Cli,
    quantity::{parse_bytes, parse_duration},
};
use tcpstate_core::diagnosis::RULES;
use tcpstate_core::filter::{CauseSet, PortListError, PortSet, StateSet};
use tcpstate_core::mode::Mode;

fn document(path: &str) -> String {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(workspace.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whether the page has a heading for this message. `...` in a heading stands for any text, and a heading
/// may be shorter than the message.
fn has_heading(page: &str, message: &str) -> bool {
    page.lines()
        .filter_map(|line| line.strip_prefix("### "))
        .any(|heading| {
            let mut rest = message;
            for (at, part) in heading.split("...").enumerate() {
                match rest.find(part) {
                    Some(0) => rest = &rest[part.len()..],
                    Some(found) if at > 0 => rest = &rest[found + part.len()..],
                    _ => return false,
                }
            }
            true
        })
}

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn layout_errors() -> Vec<LayoutError> {
    let (structure, member, field) = ("sock", "sk_err", "protocol");
    vec![
        LayoutError::Btf {
            what: "struct sock".into(),
            source: btf_rs::Error::Format("cut off".into()),
        },
        LayoutError::NoStruct { structure },
        LayoutError::NoMember { structure, member },
        LayoutError::Member {
            structure,
            member,
            found: Shape::Bits(8),
            expected: Shape::Bytes(4),
        },
        LayoutError::Ambiguous { structure, member },
        LayoutError::NoField { field },
        LayoutError::FieldUnreadable {
            field,
            line: "field:__u16 protocol;".into(),
        },
        LayoutError::Base { found: 12 },
        LayoutError::Field {
            field,
            found: Place {
                offset: 30,
                size: 1,
            },
            expected: Place {
                offset: 30,
                size: 2,
            },
        },
    ]
}

fn capture_errors() -> Vec<CaptureError> {
    let refused = || aya::programs::ProgramError::UnexpectedProgramType;
    let mut errors = vec![
        CaptureError::Privileges(os(libc::EPERM)),
        CaptureError::NoRingBuffer {
            kernel: "5.7.0".into(),
        },
        CaptureError::RingBytes {
            bytes: 5000,
            page_bytes: 4096,
        },
        CaptureError::RingAllocation {
            bytes: 1 << 30,
            source: os(libc::ENOMEM),
        },
        CaptureError::NoBtf {
            path: tcpstate_capture::host::BTF_PATH.into(),
            source: BtfError::Parse(btf_rs::Error::IO(os(libc::ENOENT))),
        },
        CaptureError::NoTracefs {
            path: "/sys/kernel/tracing/events/sock/inet_sock_set_state/format".into(),
            source: os(libc::EACCES),
        },
        CaptureError::NoNetns {
            why: "a reason".into(),
        },
        CaptureError::Object(aya::EbpfError::NoBTF),
        CaptureError::NoMode {
            btf: "one".into(),
            tracepoint: "two".into(),
            remedy: None,
        },
        CaptureError::Map {
            name: "RING",
            source: MapUseError::Missing,
        },
    ];
    for mode in [Mode::Btf, Mode::Tracepoint] {
        errors.push(CaptureError::Load {
            mode,
            source: refused(),
        });
        errors.push(CaptureError::Attach {
            mode,
            source: refused(),
        });
    }
    errors.extend(layout_errors().into_iter().map(CaptureError::Layout));
    errors
}

#[test]
fn every_error_of_a_capture_is_explained() {
    let page = document("docs/troubleshooting.md");
    for error in capture_errors() {
        let message = error.to_string();
        assert!(
            has_heading(&page, &message),
            "no heading in docs/troubleshooting.md for: {message}"
        );
    }
}

#[test]
fn every_error_of_a_list_of_sockets_is_explained() {
    let page = document("docs/troubleshooting.md");
    let path = || "/run/netns/blue".into();
    let errors = [
        DumpError::NoSockDiag(os(libc::ENOENT)),
        DumpError::Refused(os(libc::EPERM)),
        DumpError::Link {
            what: "open",
            source: os(libc::EMFILE),
        },
        DumpError::BrokenOff,
        DumpError::Netns(NetnsError::Open {
            path: path(),
            source: os(libc::ENOENT),
        }),
        DumpError::Netns(NetnsError::NotOne(path())),
        DumpError::Netns(NetnsError::NotFound(7)),
        DumpError::Netns(NetnsError::Enter {
            name: "blue".into(),
            source: os(libc::EPERM),
        }),
    ];
    for message in errors.map(|error| error.to_string()) {
        assert!(
            has_heading(&page, &message),
            "no heading in docs/troubleshooting.md for: {message}"
        );
    }
}

#[test]
fn every_error_of_a_cgroup_is_explained() {
    let page = document("docs/troubleshooting.md");
    let path = || "/sys/fs/cgroup/system.slice".into();
    let errors = [
        CgroupError::NotMounted,
        CgroupError::NotFound {
            path: path(),
            mount: path(),
        },
        CgroupError::Unreadable {
            path: path(),
            source: os(libc::EACCES),
        },
    ];
    for message in errors.map(|error| error.to_string()) {
        assert!(
            has_heading(&page, &message),
            "no heading in docs/troubleshooting.md for: {message}"
        );
    }
}

#[test]
fn every_error_in_an_argument_is_explained() {
    let page = document("docs/troubleshooting.md");
    let owner = |option: &str, value: &str| {
        let words = ["tcpstate", "trace", option, value];
        let error = Cli::try_parse_from(words).unwrap_err().to_string();
        let line = error.lines().next().unwrap();
        let (_, message) = line.split_once("': ").unwrap();
        message.to_owned()
    };
    let port = |text: &str| text.parse::<PortSet>().unwrap_err();
    assert!(matches!(port("80,,81"), PortListError::Empty));
    let messages = [
        port("80,,81").to_string(),
        port("http").to_string(),
        port("90-80").to_string(),
        "ESTABLISHING".parse::<StateSet>().unwrap_err().to_string(),
        "closed".parse::<CauseSet>().unwrap_err().to_string(),
        parse_duration("soon").unwrap_err().to_string(),
        parse_duration("0s").unwrap_err().to_string(),
        parse_bytes("much").unwrap_err().to_string(),
        owner("--comm", "a,,b"),
        owner("--uid", "no such user"),
    ];
    for message in messages {
        assert!(
            has_heading(&page, &message),
            "no heading in docs/troubleshooting.md for: {message}"
        );
    }
}

#[test]
fn too_few_descriptors_are_explained() {
    let message = TooFewDescriptors::from(os(libc::EMFILE)).to_string();
    assert!(has_heading(&document("docs/troubleshooting.md"), &message));
}

#[test]
fn a_heading_matches_only_its_message() {
    let page = "### the kernel's `struct ...` has no member `...`; try\n### cannot ...\n";
    assert!(has_heading(
        page,
        "the kernel's `struct sock` has no member `sk_err`; try this"
    ));
    assert!(!has_heading(
        page,
        "the kernel's `struct sock` has a member `sk_err`"
    ));
    assert!(!has_heading(page, "we cannot do it"));
    assert!(!has_heading("", "anything"));
}

#[test]
fn every_field_cause_state_finding_and_metric_is_documented() {
    for (path, page) in [
        ("docs/fields.md", fields::page()),
        ("docs/causes.md", causes::page()),
        ("docs/states.md", states::page()),
        ("docs/diagnosis.md", findings::page()),
        #[cfg(feature = "serve")]
        ("docs/metrics.md", metrics::page()),
        #[cfg(feature = "serve")]
        ("docs/api.md", api::page()),
    ] {
        if std::env::var_os("TCPSTATE_BLESS").is_some() {
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            std::fs::write(workspace.join(path), &page).unwrap();
        }
        assert!(
            document(path) == page,
            "{path} is not what the code says; TCPSTATE_BLESS=1 writes it anew"
        );
    }
}

/// `cargo xtask bench --write-docs` writes the tables of the notebook, and the page for users quotes them.
#[test]
fn figures_of_the_overhead_are_those_of_the_notebook() {
    let is_figure = |character: char| character.is_ascii_digit() || ".,".contains(character);
    let figures = |text: &str| -> Vec<String> {
        let words = text.split(|character| !is_figure(character));
        let words = words.map(|word| word.trim_matches(['.', ',']));
        // Counts of one or two digits are words, and no figures.
        let figures = words.filter(|word| word.len() > 2);
        figures.map(str::to_owned).collect()
    };
    let notebook = figures(&document("docs/overhead-notebook.md"));
    let page = figures(&document("docs/overhead.md"));
    assert!(page.len() > 30, "{page:?}");
    for figure in page {
        assert!(
            notebook.contains(&figure),
            "{figure} is not in the notebook"
        );
    }
}

#[test]
fn links_between_the_documents_resolve() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for path in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/alerts.md",
        "docs/captures.md",
        "docs/deploy.md",
        "docs/overhead.md",
        "docs/overhead-notebook.md",
        "docs/reliability.md",
        "docs/troubleshooting.md",
        "docs/diagnosis.md",
        "docs/metrics.md",
        "docs/api.md",
    ] {
        let text = document(path);
        let folder = Path::new(path).parent().unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => root.join(path),
                file => root.join(folder).join(file),
            };
            assert!(target.exists(), "{path} links to {link}");
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(target).unwrap();
                assert!(has_anchor(&text, anchor), "{path} links to {link}");
            }
        }
    }
}

/// Whether a heading of a page has this anchor, as forges make them.
fn has_anchor(page: &str, anchor: &str) -> bool {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let mut anchors = headings.map(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.replace(' ', "-");
        kept.replace(|c: char| !c.is_alphanumeric() && c != '-' && c != '_', "")
    });
    anchors.any(|found| found == anchor)
}

/// Each situation of `docs/diagnosis.md` is one that a kernel test checks; together they have all findings.
#[test]
fn situations_are_those_of_the_kernel_tests() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel/diagnose");
    let sources: String = std::fs::read_dir(tests)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let mut names: Vec<_> = SITUATIONS.iter().map(|situation| situation.name).collect();
    for name in &names {
        assert!(
            sources.contains(&format!("\"{name}\"")),
            "no test of {name}"
        );
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), SITUATIONS.len(), "a name stands twice");
    let found = SITUATIONS.iter().flat_map(|situation| situation.found);
    let mut found: Vec<_> = found.map(|&(name, _)| name).collect();
    found.push("orphans_near_limit");
    for rule in RULES {
        let name = rule.text.name;
        assert!(found.contains(&name), "no situation has {name}");
    }
}
