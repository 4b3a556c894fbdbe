use super::*;

fn configured(words: &[&str], text: &str) -> Result<Configured, String> {
    let words = ["tcpstate", "serve"].iter().chain(words);
    let words: Vec<OsString> = words.map(OsString::from).collect();
    let path = Path::new("serve.toml");
    Configured::new(&words, Some(File { path, text })).map_err(|error| error.to_string())
}

fn in_force(configured: &Configured, name: &str) -> (Option<String>, Source) {
    let setting = configured.setting(name).unwrap();
    (setting.value.clone(), setting.source)
}

#[test]
fn an_option_wins() {
    let text = "\
# ours
listen = \"127.0.0.1:80\"
max-ports = 7
ports = [80, \"443\", \"8000-8100\"]
buckets = \"1ms,1s\"
quiet = true
filter = \"not src 127.0.0.0/8\"
";
    let file = configured(&[], text).unwrap();
    assert_eq!(file.serve.listen.port(), 80);
    assert_eq!(file.serve.bounds.max_ports, 7);
    assert_eq!(file.serve.buckets.len(), 2);
    assert_eq!(file.serve.watch.expression, ["not src 127.0.0.0/8"]);
    assert!(file.serve.watch.output.quiet);
    assert_eq!(
        in_force(&file, "ports"),
        (Some("\"80,443,8000-8100\"".to_owned()), Source::Line(4))
    );
    // `--verbose` excludes `quiet`.
    let words = ["--max-ports", "9", "--verbose", "--", "dport", "80"];
    let both = configured(&words, text).unwrap();
    assert_eq!(both.serve.listen.port(), 80);
    assert_eq!(both.serve.bounds.max_ports, 9);
    assert_eq!(both.serve.watch.expression, ["dport", "80"]);
    assert!(both.serve.watch.verbose && !both.serve.watch.output.quiet);
    assert_eq!(
        in_force(&both, "max-ports"),
        (Some("9".to_owned()), Source::CommandLine)
    );
    assert_eq!(
        in_force(&both, "filter"),
        (Some("\"dport 80\"".to_owned()), Source::CommandLine)
    );
    assert_eq!(
        in_force(&both, "quiet"),
        (Some("false".to_owned()), Source::Default)
    );
    let text = "filter = \"dport 80\"\nsample-interval = \"2s\"\n";
    let after = configured(&["--max-ports=5", "--"], text).unwrap();
    assert_eq!(after.serve.watch.expression, ["dport 80"]);
    assert_eq!(after.serve.bounds.max_ports, 5);
}

#[test]
fn a_name_may_have_dots() {
    for text in [
        "\nweb.config.file = \"w.yml\"\n",
        "\nweb = { config.file = \"w.yml\" }\n",
        "\n\"web.config.file\" = \"w.yml\"\n",
    ] {
        let file = configured(&[], text).unwrap();
        assert_eq!(
            file.serve.web_config_file.as_deref(),
            Some(Path::new("w.yml"))
        );
        let expected = (Some("\"w.yml\"".to_owned()), Source::Line(2));
        assert_eq!(in_force(&file, "web.config.file"), expected, "{text}");
    }
}

#[test]
fn a_mistake_is_named_with_file_and_line() {
    for (text, message) in [
        (
            "\nweb.config.fil = \"x\"",
            "serve.toml, line 2: unknown setting `web.config.fil`; did you mean `web.config.file`?",
        ),
        ("web = {}", "serve.toml, line 1: unknown setting `web`"),
        ("\n[x", "serve.toml, line 2: unclosed table"),
        (
            "max-prots = 1",
            "serve.toml, line 1: unknown setting `max-prots`; did you mean `max-ports`?",
        ),
        (
            "\nmax_ports = 1",
            "serve.toml, line 2: unknown setting `max_ports`; did you mean `max-ports`?",
        ),
        (
            "zzzzzzzz = 1",
            "serve.toml, line 1: unknown setting `zzzzzzzz`",
        ),
        // It is about this run.
        (
            "check-config = true",
            "serve.toml, line 1: unknown setting `check-config`",
        ),
        // Other commands have it.
        ("read = \"x\"", "serve.toml, line 1: unknown setting `read`"),
        (
            "max-ports = 0",
            "serve.toml, line 1: invalid value '0' for '--max-ports <N>'",
        ),
        (
            "max-ports = [1]",
            "serve.toml, line 1: `max-ports` is a string or a number",
        ),
        (
            "ports = [[1]]",
            "serve.toml, line 1: `ports` is a string, a number, or a list",
        ),
        ("quiet = 1", "serve.toml, line 1: `quiet` is true or false"),
        (
            "listen = true",
            "serve.toml, line 1: `listen` is a string or a number",
        ),
        (
            "attach = \"ftrace\"",
            "serve.toml, line 1: invalid value 'ftrace' for '--attach <MODE>'",
        ),
        (
            "sample-interval = 0",
            "serve.toml, line 1: serve does not take --sample-interval 0",
        ),
        ("quiet = true\nverbose = true", "serve.toml: the argument"),
    ] {
        let error = configured(&[], text).unwrap_err();
        assert!(error.starts_with(message), "{text}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    // An option does not hide a mistake.
    let error = configured(&["--max-ports", "5"], "max-ports = 0").unwrap_err();
    assert!(error.starts_with("serve.toml, line 1"), "{error}");
}

#[test]
fn what_is_in_force_is_a_file_again() {
    let text =
        "ports = \"80\"\njson = true\nfilter = \"dport 80 and not src [::1]\"\nduration = \"5s\"\n";
    let first = configured(&["--max-ports", "5"], text).unwrap();
    let lines = first.settings.iter().filter_map(|setting| {
        let value = setting.value.as_ref()?;
        Some(format!("{} = {value}\n", setting.name))
    });
    let second = configured(&[], &lines.collect::<String>()).unwrap();
    let values = |configured: &Configured| {
        let settings = configured.settings.iter();
        let values = settings.map(|setting| (setting.name.clone(), setting.value.clone()));
        values.collect::<Vec<_>>()
    };
    assert_eq!(values(&first), values(&second));
    assert!(first.settings.len() > 15, "{:?}", first.settings);
}

#[test]
fn without_a_file_the_command_line_is_all() {
    let words = ["tcpstate", "serve", "--json"].map(OsString::from);
    let configured = Configured::new(&words, None).unwrap();
    assert_eq!(
        in_force(&configured, "json"),
        (Some("true".to_owned()), Source::CommandLine)
    );
    assert_eq!(in_force(&configured, "ports"), (None, Source::Default));
    assert_eq!(
        in_force(&configured, "listen"),
        (Some("\"127.0.0.1:9716\"".to_owned()), Source::Default)
    );
}
