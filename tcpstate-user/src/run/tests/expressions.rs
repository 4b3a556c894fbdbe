//! Random expressions on random streams: a recording shows what was shown live, byte for byte.

use std::path::Path;

use serde_json::Value;
use tcpstate_core::{options::Format, source::EventSource};
use tcpstate_recording::Reader;
use tcpstate_text::{
    format::text::Columns,
    settings::Settings,
    trace::{self, Trace},
};

use super::*;
use crate::{
    recorder::{self, Record as Recorder, To},
    stream::{Random, Traffic, events},
};

/// Makes an expression of random conditions, each of which is true of some of the events.
fn expression(random: &mut Random, depth: u32) -> String {
    const CONDITIONS: [&str; 22] = [
        "sport = 443",
        "sport > 40000",
        "dport 443,8000-9000",
        "port != 443",
        "src 10.0.0.0/8",
        "dst 127.0.0.0/8",
        "host [2001:db8::]/32",
        "net 0.0.0.0/1",
        "family ipv6",
        "service 443",
        "role client",
        "role server",
        "comm c*",
        "pid > 1000",
        "uid 0",
        "netns != 1",
        "state syn-sent,close-wait",
        "oldstate established",
        "newstate close",
        "dwell > 100us",
        "lifetime > 1ms",
        "bytes_sent > 1000",
    ];
    let one = |random: &mut Random| {
        let index = usize::try_from(random.below(CONDITIONS.len() as u64)).unwrap();
        CONDITIONS[index].to_owned()
    };
    if depth == 0 {
        return one(random);
    }
    let mut part = || expression(random, depth - 1);
    let (first, second) = (part(), part());
    match random.below(5) {
        0 => one(random),
        1 => format!("not ( {first} )"),
        2 => format!("( {first} or {second} )"),
        3 => format!("( {first} and {second} )"),
        _ => format!("( {first} and not {second} )"),
    }
}

/// The lines of `trace --json`, and the summary's selection.
async fn trace(source: &mut dyn EventSource, expression: &str) -> (String, Value) {
    let mut view = Trace::new(&trace::Options {
        settings: Settings::plain(Format::Json),
        states: None,
        count: None,
        columns: Columns::Usual,
        time: false,
        timestamp: false,
        reset_reason: false,
    });
    let options = Options {
        expression: Expression::parse(expression, &NoNames).unwrap(),
        ..Options::default()
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outputs = Outputs {
        out: &mut out,
        err: &mut err,
    };
    let mut never = Timed::none();
    let result = drive(source, &mut view, outputs, &mut never, &options).await;
    assert!(result.is_ok(), "{result:?}");
    let out = String::from_utf8(out).unwrap();
    let (lines, summary) = out.trim_end().rsplit_once('\n').unwrap_or(("", &out));
    let summary: Value = serde_json::from_str(summary).unwrap();
    (lines.to_owned(), summary["selection"].clone())
}

async fn record(source: &mut dyn EventSource, path: &Path) {
    let mut view = Recorder::new(recorder::Options {
        path: path.to_owned(),
        format: Format::Text,
        to: To::File(tcpstate_recording::Options::default()),
    });
    let outputs = Outputs {
        out: &mut io::sink(),
        err: &mut io::sink(),
    };
    let mut never = Timed::none();
    let options = Options::default();
    let result = drive(source, &mut view, outputs, &mut never, &options).await;
    assert!(result.is_ok(), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_recording_selects_what_was_selected_live() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recording");
    let mut random = Random::new(1);
    let (mut some, mut all) = (0, 0);
    for seed in 0..12 {
        let traffic = [Traffic::Churn, Traffic::WebServer, Traffic::Noise][seed % 3];
        let events = events(traffic, 300, seed as u64);
        let count = events.len();
        let source = || Script::new(false, 0, [Act::Batch(events.clone())]);
        record(&mut source(), &path).await;
        for _ in 0..40 {
            let expression = expression(&mut random, 3);
            let live = trace(&mut source(), &expression).await;
            let recorded = trace(&mut Reader::open(&path).unwrap(), &expression).await;
            assert_eq!(live, recorded, "{expression}");
            let shown = live.0.lines().count();
            assert_eq!(live.1["passed"], shown, "{expression}");
            some += usize::from(shown > 0 && shown < count);
            all += 1;
        }
    }
    // Many select some and leave some out.
    assert!(some * 4 > all, "{some} of {all}");
}

/// Of a connection, a condition on the socket passes all events or none, once it is known.
#[tokio::test(start_paused = true)]
async fn no_connection_is_torn() {
    let mut random = Random::new(2);
    let events = events(Traffic::Churn, 2_000, 7);
    for text in [
        "sport > 40000",
        "not sport > 40000",
        "dport != 443 or sport = 1",
        "src 127.0.0.1 and not dport = 1",
        "sport > 40000 or comm none",
    ] {
        let mut source = Script::new(false, 0, [Act::Batch(events.clone())]);
        let (lines, _) = trace(&mut source, text).await;
        let shown: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let of = |cookie: u64| shown.iter().filter(move |line| line["cookie"] == cookie);
        for _ in 0..50 {
            let index = usize::try_from(random.below(events.len() as u64)).unwrap();
            let Some(cookie) = events[index].cookie() else {
                continue;
            };
            let made = events.iter().filter(|one| one.cookie() == Some(cookie));
            let (made, found) = (made.count(), of(cookie).count());
            // The last connections are not over: a held event may have no next one.
            assert!(found == 0 || found == made, "{text}: {found} of {made}");
        }
    }
}
