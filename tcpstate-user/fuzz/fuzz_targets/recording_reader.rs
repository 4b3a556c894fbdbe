//! Reading any bytes ends, and the books balance.
//!
//! A fuzzer would never get past the checksums. So the first byte of the input selects the meaning of the
//! rest: a file as it is, or one that gets the right lengths and checksums here.
#![no_main]

#[path = "../../tests/support/repair.rs"]
mod repair;

use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use tcpstate_core::source::{EventSource, Step};
use tcpstate_recording::{MAX_BLOCK_RECORDS, Reader};

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else {
        return;
    };
    let file = if kind & 1 == 0 {
        rest.to_vec()
    } else {
        repair::repair(rest)
    };
    let length = file.len() as u64;
    let Ok(mut reader) = Reader::in_place(file) else {
        return;
    };
    let (mut batch, mut notices) = (Vec::new(), 0);
    loop {
        batch.clear();
        let step = reader.poll_step(&mut Context::from_waker(Waker::noop()), &mut batch);
        let Poll::Ready(Ok(step)) = step else {
            panic!("everything has been read, and memory does not fail: {step:?}");
        };
        assert!(batch.len() <= MAX_BLOCK_RECORDS);
        match step {
            Step::End => break,
            Step::Notice(_) => notices += 1,
            Step::Events
            | Step::Census(_)
            | Step::Recalled(_)
            | Step::Packets(_)
            | Step::Settled => {}
        }
    }
    let read = reader.progress().map(|progress| progress.read_bytes);
    assert!(read <= Some(length), "no byte is read twice");
    // A file may contain any books, but the reader's own must balance.
    let books = reader.accounting().expect("the books of a file");
    if books.partial {
        assert_eq!(books.seen, books.filtered + books.submitted + books.lost);
        assert_eq!(books.submitted, books.received + books.rejected);
    }
    assert!(notices <= 30);
});
