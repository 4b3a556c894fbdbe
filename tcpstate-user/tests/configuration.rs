//! The configuration of `serve`, as a user meets it: no privileges, and nothing is started.

#![cfg(feature = "serve")]

use std::{fs, process::Command};

use tempfile::TempDir;

/// The exit status, standard output and standard error of `tcpstate serve` in this folder.
fn serve(folder: &TempDir, words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .arg("serve")
        .args(words)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_file_is_checked() {
    let folder = TempDir::new().unwrap();
    for (text, status, message) in [
        (
            "ports = [80, 443]\nfilter = \"not src 127.0.0.0/8\"\n",
            0,
            "tcpstate: the configuration is valid\n",
        ),
        (
            "\nmax-prots = 64\n",
            2,
            "tcpstate: serve.toml, line 2: unknown setting `max-prots`; did you mean `max-ports`?\n",
        ),
        (
            "buckets = [\"1s\", \"1ms\"]\n",
            2,
            "tcpstate: serve.toml, line 1: --buckets: the bounds of buckets must go up, each once\n",
        ),
        (
            "# a comment\nfilter = \"dport 80 or\"\n",
            2,
            "tcpstate: serve.toml, line 2: `filter`: ",
        ),
    ] {
        fs::write(folder.path().join("serve.toml"), text).unwrap();
        let words = ["--config", "serve.toml", "--check-config"];
        let (code, out, said) = serve(&folder, &words);
        assert_eq!(code, Some(status), "{text}: {said}");
        assert!(said.starts_with(message), "{text}: {said}");
        assert_eq!(out, "");
    }
    let words = ["--config", "none.toml", "--check-config"];
    let (code, _, said) = serve(&folder, &words);
    assert_eq!(code, Some(1));
    let message = "tcpstate: cannot read the configuration none.toml: No such file";
    assert!(said.starts_with(message), "{said}");
}

#[test]
fn what_is_printed_is_a_file() {
    let folder = TempDir::new().unwrap();
    fs::write(
        folder.path().join("a.toml"),
        "\nmax-ports = 7\nquiet = true\n",
    )
    .unwrap();
    let words = ["--config", "a.toml", "--ports", "80,443", "--print-config"];
    let (code, printed, said) = serve(&folder, &words);
    assert_eq!((code, &*said), (Some(0), ""));
    let line = |name: &str| {
        let mut lines = printed.lines().filter(|line| line.starts_with(name));
        let words = lines
            .next()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.unwrap_or_default().join(" ")
    };
    assert_eq!(line("max-ports"), "max-ports = 7 # a.toml, line 2");
    assert_eq!(line("quiet"), "quiet = true # a.toml, line 3");
    assert_eq!(line("ports"), "ports = \"80,443\" # command line");
    assert_eq!(line("listen"), "listen = \"127.0.0.1:9716\" # default");
    assert_eq!(line("# buckets"), "# buckets # not set");
    // With it, the same is in force.
    fs::write(folder.path().join("b.toml"), &printed).unwrap();
    let (_, again, _) = serve(&folder, &["--config", "b.toml", "--print-config"]);
    let settings = |text: &str| {
        let table: toml::Table = text.parse().unwrap();
        table
    };
    assert_eq!(settings(&printed), settings(&again));
}
