//! Consumers in other threads, slow ones, absent ones, and the end.

#![allow(
    clippy::disallowed_methods,
    reason = "consumers are threads; the core has none"
)]

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, atomic::Ordering, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use tcpstate_core::model::Include;

use crate::{Count, SECOND, finish, is_pending, open, ready, started, tick};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits in this thread, as a consumer without a runtime does.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// A waker that counts.
#[test]
fn consumers_in_threads_get_the_end_and_whatever_they_have_time_for() {
    const TICKS: u64 = 200;
    let mut publisher = started(Include::ALL, None);
    // Never asked: it holds nothing up.
    let absent = publisher.subscribe();
    let eager: Vec<_> = (0..3)
        .map(|_| {
            let mut subscriber = publisher.subscribe();
            thread::spawn(move || {
                let mut all = Vec::new();
                while let Some(snapshot) = block_on(subscriber.next()) {
                    all.push(snapshot);
                }
                all
            })
        })
        .collect();
    let (go_on, wait) = mpsc::channel::<()>();
    let (has_first, first) = mpsc::channel();
    let mut subscriber = publisher.subscribe();
    let slow = thread::spawn(move || {
        let before = block_on(subscriber.next()).expect("a first one");
        has_first.send(()).expect("the test waits for it");
        // Draws for as long as all the rest takes.
        wait.recv().expect("the test lets it go on");
        let after = block_on(subscriber.next()).expect("the last one");
        assert!(block_on(subscriber.next()).is_none());
        (before, after)
    });
    for second in 1..=TICKS {
        open(&mut publisher, second);
        tick(&mut publisher, second);
        if second == 1 {
            first.recv().expect("the slow one has its first");
        }
    }
    finish(&mut publisher, TICKS + 1);
    go_on.send(()).expect("the slow one waits for it");

    for consumer in eager {
        let all = consumer.join().unwrap();
        assert!(
            all.is_sorted_by(|one, next| one.number < next.number),
            "none comes twice"
        );
        let last = all.last().unwrap();
        assert!(last.is_final && last.number == TICKS + 1);
        assert_eq!(last.books.accounting.received, TICKS + 1);
        for snapshot in &all {
            // Each is whole, and of its own tick.
            let opened = snapshot.number.min(TICKS);
            assert_eq!(snapshot.tracker.all.opened, opened);
            assert_eq!(snapshot.tracker.connections.len() as u64, opened);
            assert_eq!(snapshot.interval.end_ns, snapshot.number * SECOND);
        }
    }
    let (before, after) = slow.join().unwrap();
    assert_eq!((before.number, after.number), (1, TICKS + 1));
    // The snapshot that it held all the time has not changed.
    assert_eq!(before.tracker.connections.len(), 1);
    assert_eq!(absent.latest().unwrap().number, TICKS + 1);
}

#[test]
fn a_consumer_gets_the_latest_and_its_number_says_how_many_it_skipped() {
    let mut publisher = started(Include::FIGURES, None);
    let mut subscriber = publisher.subscribe();
    assert!(subscriber.latest().is_none() && is_pending(&mut subscriber));
    open(&mut publisher, 1);
    tick(&mut publisher, 1);
    assert_eq!(ready(&mut subscriber).unwrap().number, 1);
    assert!(
        is_pending(&mut subscriber),
        "the same one does not come again"
    );
    assert_eq!(subscriber.latest().unwrap().number, 1, "but it can be had");
    for second in 2..=5 {
        open(&mut publisher, second);
        tick(&mut publisher, second);
    }
    let mut clone = subscriber.clone();
    let snapshot = ready(&mut subscriber).unwrap();
    assert_eq!(snapshot.number, 5);
    // The rates are those of its own interval, the totals of all.
    let opened = (snapshot.interval.all.opened, snapshot.tracker.all.opened);
    assert_eq!(opened, (1, 5));
    assert_eq!(ready(&mut clone).unwrap().number, 5, "each for itself");
    let mut late = publisher.subscribe();
    assert_eq!(ready(&mut late).unwrap().number, 5);
}

#[test]
fn one_who_waits_is_woken_once_a_tick_however_often_it_asked() {
    let mut publisher = started(Include::FIGURES, None);
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    let mut subscriber = publisher.subscribe();
    let mut gone = publisher.subscribe();
    for _ in 0..10 {
        assert!(subscriber.poll_next(&mut cx).is_pending());
        assert!(gone.poll_next(&mut cx).is_pending());
    }
    drop(gone);
    tick(&mut publisher, 1);
    tick(&mut publisher, 2);
    assert_eq!(count.0.load(Ordering::Relaxed), 1, "it has not asked again");
    assert!(subscriber.poll_next(&mut cx).is_ready());
    assert!(subscriber.poll_next(&mut cx).is_pending());
    drop(publisher);
    assert_eq!(count.0.load(Ordering::Relaxed), 2, "of the end too");
}

#[test]
fn a_run_that_breaks_off_ends_without_a_final_snapshot() {
    let mut publisher = started(Include::FIGURES, None);
    let mut subscriber = publisher.subscribe();
    tick(&mut publisher, 1);
    drop(publisher);
    assert!(!ready(&mut subscriber).unwrap().is_final);
    assert!(ready(&mut subscriber).is_none() && ready(&mut subscriber).is_none());
    assert_eq!(subscriber.latest().unwrap().number, 1);
}
