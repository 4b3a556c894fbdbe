//! Going back in a recording: from any place on the stream is the one that came there before.

use std::{fs, path::Path};

use tcpstate_core::{
    books::Accounting,
    census::{Census, Scope},
    event::Event,
    source::{EventSource, Mark, Step},
};
use tcpstate_recording::{Options, Reader, Writer};

use crate::{
    stream::{Random, Traffic, events},
    whole::{books, next, open, origin, recording, small_blocks},
};

/// A step with its events.
type Shown = (Step, Vec<Event>);

/// All further steps but notices, with their marks; then the notices.
fn steps(reader: &mut Reader) -> (Vec<(Option<Mark>, Shown)>, Vec<String>) {
    let (mut all, mut notices) = (Vec::new(), Vec::new());
    loop {
        let mut batch = Vec::new();
        let step = next(reader, &mut batch);
        let mark = reader.seeking().expect("a file").mark();
        match step {
            Step::Notice(notice) => notices.push(notice.text),
            Step::End => return (all, notices),
            step => all.push((mark, (step, batch))),
        }
    }
}

/// Goes to every marked place, in any order, and compares what follows.
fn check(path: &Path, seed: u64) -> (usize, Vec<String>) {
    let mut reader = Reader::open(path).unwrap();
    let (all, notices) = steps(&mut reader);
    let ended: (Accounting, _) = (reader.accounting().unwrap(), reader.ended_ns());
    let marked: Vec<usize> = (0..all.len()).filter(|&at| all[at].0.is_some()).collect();
    let mut random = Random::new(seed);
    for _ in 0..20.min(20 * marked.len()) {
        let at = marked[usize::try_from(random.below(marked.len() as u64)).unwrap()];
        let mark = all[at].0.clone().unwrap();
        let before: usize = all[..at].iter().map(|(_, (_, batch))| batch.len()).sum();
        assert_eq!(mark.events, before as u64);
        reader.seeking().unwrap().go_to(&mark).unwrap();
        assert_eq!(reader.ended_ns(), None);
        // Sometimes it goes on from the middle.
        if random.below(3) == 0 {
            let mut batch = Vec::new();
            assert_eq!((next(&mut reader, &mut batch), batch), all[at].1);
            continue;
        }
        let (again, told) = steps(&mut reader);
        assert_eq!(told, Vec::<String>::new(), "they have been told");
        let shown = |(_, shown): &(_, Shown)| shown.clone();
        let expected: Vec<Shown> = all[at..].iter().map(shown).collect();
        assert!(again.iter().map(shown).collect::<Vec<_>>() == expected);
        assert_eq!((reader.accounting().unwrap(), reader.ended_ns()), ended);
    }
    (marked.len(), notices)
}

#[test]
fn every_place_of_a_file_can_be_gone_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let events = events(Traffic::WebServer, 3_050, 5);
    let mut writer = Writer::create(&path, &origin(), small_blocks()).unwrap();
    for (number, some) in (0_u32..).zip(events.chunks(250)) {
        writer.append(some, some[0].ts_ns()).unwrap();
        let census = Census {
            netns: number,
            begin_ns: some[0].ts_ns(),
            scope: Scope::Small,
            ..Census::default()
        };
        writer.append_census(&census).unwrap();
    }
    writer.finish(Some(&books(3_050)), None).unwrap();
    let (places, notices) = check(&path, 1);
    assert!(places > 30, "{places}");
    assert_eq!(notices, Vec::<String>::new());
}

#[test]
fn so_can_those_of_a_damaged_one_and_a_notice_comes_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let events = events(Traffic::WebServer, 2_030, 11);
    let whole = recording(&events, small_blocks());
    let mut random = Random::new(9);
    let mut below = |bound: usize| usize::try_from(random.below(bound as u64)).unwrap();
    for seed in 0..30 {
        let mut bytes = whole.clone();
        for _ in 0..=below(4) {
            let at = 1_000 + below(bytes.len() - 1_000);
            match below(3) {
                0 => bytes[at] ^= 1 << below(8),
                1 => bytes.truncate(at + 1),
                _ => drop(bytes.drain(at..(at + 1 + below(300)).min(bytes.len()))),
            }
            if bytes.len() <= 1_100 {
                break;
            }
        }
        fs::write(&path, &bytes).unwrap();
        let (_, notices) = check(&path, seed);
        assert!(!notices.is_empty());
    }
}

#[test]
fn a_file_without_events_has_a_place_and_a_pipe_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let bytes = recording(&[], Options::default());
    fs::write(&path, &bytes).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    let mut batch = Vec::new();
    assert_eq!(next(&mut reader, &mut batch), Step::Settled);
    assert!(reader.seeking().unwrap().mark().is_none());
    assert_eq!(next(&mut reader, &mut batch), Step::End);
    let mark = reader.seeking().unwrap().mark().unwrap();
    reader.seeking().unwrap().go_to(&mark).unwrap();
    assert_eq!(next(&mut reader, &mut batch), Step::End);
    assert!(open(&bytes).unwrap().seeking().is_none());
}

#[test]
fn one_that_was_stopped_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rec");
    let events = events(Traffic::Churn, 1_000, 2);
    fs::write(&path, recording(&events, small_blocks())).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    let mut batch = Vec::new();
    assert_eq!(next(&mut reader, &mut batch), Step::Settled);
    assert_eq!(next(&mut reader, &mut batch), Step::Events);
    let mark = reader.seeking().unwrap().mark().unwrap();
    reader.stop();
    assert_eq!(next(&mut reader, &mut Vec::new()), Step::End);
    assert!(
        reader.seeking().unwrap().mark().is_none(),
        "it is no step of the file"
    );
    reader.seeking().unwrap().go_to(&mark).unwrap();
    let (all, _) = steps(&mut reader);
    assert!(all.iter().flat_map(|(_, (_, batch))| batch).eq(&events));
    assert_eq!(reader.accounting().unwrap().received, 1_000);
}
