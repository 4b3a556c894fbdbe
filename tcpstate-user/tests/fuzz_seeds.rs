//! The seeds of the fuzz targets are valid input for their parsers: a fuzzer gains nothing from a seed
//! that is refused at its first byte.
//!
//! The seeds of the project's own formats are checked by the tests of those formats.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::Parser as _;
use tcpstate_capture::{
    host::{Lockdown, parse_version},
    layout::format,
    procfs::ListenCounters,
};
use tcpstate_cli::{
    Cli,
    quantity::{parse_bytes, parse_duration},
};
use tcpstate_core::expression::{Expression, NoNames};
use tcpstate_core::filter::{PortSet, StateSet};
use tcpstate_core::netns::NetnsSelector;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The file names in a folder, without their extension.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let stem = path.file_stem().expect("a name");
            stem.to_str().expect("a name in ASCII").to_owned()
        })
        .collect()
}

fn seed(path: &str) -> String {
    let path = fuzz().join("seeds").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_target_is_built_described_and_has_seeds() {
    let targets = names(&fuzz().join("fuzz_targets"));
    assert_eq!(names(&fuzz().join("seeds")), targets);
    let manifest: toml::Table = fs::read_to_string(fuzz().join("Cargo.toml"))
        .expect("the manifest")
        .parse()
        .expect("TOML");
    let built = manifest["bin"].as_array().expect("targets");
    let built = built
        .iter()
        .map(|bin| bin["name"].as_str().expect("a name").to_owned());
    assert_eq!(built.collect::<BTreeSet<_>>(), targets);
    let readme = fs::read_to_string(fuzz().join("README.md")).expect("the description");
    for target in targets {
        assert!(readme.contains(&format!("- `{target}`: ")), "{target}");
    }
}

#[test]
fn the_seeds_of_arguments_are_valid() {
    let folder = fuzz().join("seeds/arguments");
    let mut parsers = BTreeSet::new();
    for name in names(&folder) {
        let seed = seed(&format!("arguments/{name}"));
        // The first byte selects the parser, as in the target.
        let (which, text) = seed.split_at(1);
        let which = which.as_bytes()[0];
        let is_good = match which {
            0 => text.parse::<PortSet>().is_ok(),
            1 => text.parse::<StateSet>().is_ok(),
            2 => parse_duration(text).is_ok(),
            3 => parse_bytes(text).is_ok(),
            4 => text.parse::<NetnsSelector>().is_ok(),
            5 => Cli::try_parse_from(["tcpstate"].into_iter().chain(text.split('\n'))).is_ok(),
            other => panic!("{name} is for parser {other}"),
        };
        assert!(is_good, "{name}: {text:?}");
        parsers.insert(which);
    }
    assert_eq!(parsers.len(), 6, "a seed for each parser");
}

#[test]
fn the_seeds_of_expressions_are_valid() {
    for name in names(&fuzz().join("seeds/expression")) {
        let text = seed(&format!("expression/{name}"));
        let parsed = Expression::parse(&text, &NoNames);
        assert_eq!(parsed.is_err(), name == "mistake", "{name}: {parsed:?}");
    }
}

#[cfg(feature = "serve")]
#[test]
fn the_seeds_of_requests_are_valid() {
    use tcpstate_serve::api::{ENDPOINTS, Request};
    let mut paths = BTreeSet::new();
    for name in names(&fuzz().join("seeds/api_requests")) {
        let text = seed(&format!("api_requests/{name}"));
        let (path, query) = text.split_once('\n').expect("a path and a query");
        let request = Request::parse(path, query, &NoNames);
        assert_eq!(request.is_err(), name == "mistake", "{name}: {request:?}");
        paths.insert(path.to_owned());
    }
    // The others take no parameters either.
    let with_parameters = ENDPOINTS.iter().filter(|one| !one.parameters.is_empty());
    for endpoint in with_parameters {
        assert!(paths.contains(endpoint.path), "{}", endpoint.path);
    }
}

#[test]
fn the_seeds_of_the_kernels_texts_are_valid() {
    format::parse(&seed("tracepoint_format/linux-6.18")).expect("a layout");
    let counters = ListenCounters::parse(&seed("kernel_texts/netstat"));
    assert_eq!(
        (counters.cookies_sent, counters.overflows),
        (Some(3), Some(5))
    );
    let lockdown = Lockdown::parse(&seed("kernel_texts/lockdown"));
    assert_eq!(lockdown, Lockdown::Integrity);
    assert_eq!(parse_version(&seed("kernel_texts/release")), Some((6, 1)));
}
