//! Changes as they happen, as server-sent events.
//!
//! Source: the HTML standard, section 9.2 (server-sent events).

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Bytes, HttpBody};
use http_body::Frame;
use tcpstate_core::{
    catalogue::{TRANSITION, TransitionRow},
    event::Event,
    expression::{Change, ChangeFacts, Expression, Truth},
};
use tcpstate_text::format::json::Records;
use tokio::time::{Instant, Sleep, sleep};

use super::{
    feed::{Follower, Taken},
    push,
};
use crate::lease::Lease;

/// The time between two looks for new changes: nobody wakes a client for each.
const PAUSE: Duration = Duration::from_millis(100);

/// The time after which something is sent in silence too, so that either side learns that the other has gone.
const SILENCE: Duration = Duration::from_secs(5);

/// Changes that are taken at once.
const AT_ONCE: usize = 256;

/// Undecided changes that are held until their socket's next one.
const MOST_HELD: usize = 4_096;

/// The changes that a client wants, from now on.
pub(super) struct Events {
    follower: Follower,
    lease: Lease,
    filter: Filter,
    records: Records<TransitionRow>,
    timer: Pin<Box<Sleep>>,
    sent_at: Instant,
    has_begun: bool,
    has_ended: bool,
}

impl Events {
    pub(super) fn new(follower: Follower, lease: Lease, expression: Expression) -> Self {
        Self {
            follower,
            lease,
            filter: Filter {
                expression,
                held: HashMap::new(),
            },
            records: Records::lines(&TRANSITION),
            timer: Box::pin(sleep(PAUSE)),
            sent_at: Instant::now(),
            has_begun: false,
            has_ended: false,
        }
    }

    /// The text of what there is, and whether that is all; of many changes only the first are judged, since other clients wait
    /// meanwhile.
    fn text(&mut self) -> io::Result<(Vec<u8>, bool)> {
        let mut text = Vec::new();
        if !std::mem::replace(&mut self.has_begun, true) {
            // The client knows that it follows from here on.
            push(&mut text, ": from now on\n\n");
        }
        let Taken {
            missed,
            changes,
            has_ended,
        } = self.follower.take(AT_ONCE);
        if missed > 0 {
            let line = format!("{{\"type\":\"missed\",\"missed\":{missed}}}");
            push(&mut text, &format!("event: missed\ndata: {line}\n\n"));
        }
        for change in &changes {
            for shown in self.filter.pass(change).into_iter().flatten() {
                push(&mut text, "event: transition\ndata: ");
                self.records.push(&shown.row, &mut text)?;
                push(&mut text, "\n\n");
            }
        }
        if has_ended {
            self.has_ended = true;
            push(&mut text, "event: end\ndata: {\"type\":\"end\"}\n\n");
        }
        Ok((text, changes.len() < AT_ONCE))
    }
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = io::Error;

    /// Called when the client has read what was sent before.
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        loop {
            this.lease.extend();
            let (mut text, is_all) = match this.text() {
                Ok(text) => text,
                Err(error) => return Poll::Ready(Some(Err(error))),
            };
            let now = Instant::now();
            if text.is_empty() && now.duration_since(this.sent_at) >= SILENCE {
                push(&mut text, ":\n\n");
            }
            if !text.is_empty() {
                this.sent_at = now;
                return Poll::Ready(Some(Ok(Frame::data(text.into()))));
            }
            if !is_all {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(this.timer.as_mut().poll(cx));
            this.timer.as_mut().reset(now + PAUSE);
        }
    }
}

/// Passes the changes for which an expression is true, as the gate of a run does.
struct Filter {
    expression: Expression,
    /// By the address of the socket (the cookie where there is none), the change that its next one decides.
    held: HashMap<u64, Arc<Change>>,
}

impl Filter {
    /// The changes that match now: one that was held, and this one.
    fn pass(&mut self, change: &Arc<Change>) -> [Option<Arc<Change>>; 2] {
        if self.expression.wants_all() {
            return [None, Some(Arc::clone(change))];
        }
        let key = key(&change.event);
        let held = self.held.remove(&key);
        let held = held.filter(|held| is_next(&held.event, &change.event));
        let held = held.filter(|held| {
            let facts = ChangeFacts {
                change: held,
                latest: change,
            };
            self.expression.judge(&facts) == Truth::Yes
        });
        let facts = ChangeFacts {
            change,
            latest: change,
        };
        let judged = self.expression.judge(&facts);
        if judged == Truth::Unknown && facts.is_pending() {
            if self.held.len() >= MOST_HELD {
                // Their next ones were lost, or filtered in the kernel.
                self.held.clear();
            }
            self.held.insert(key, Arc::clone(change));
        }
        [held, (judged == Truth::Yes).then(|| Arc::clone(change))]
    }
}

/// The child of a listener has no cookie before its second change, so that only its address is the same at both.
const fn key(event: &Event) -> u64 {
    let record = event.record();
    if record.skaddr == 0 {
        record.cookie
    } else {
        record.skaddr
    }
}

/// Whether one event follows another of the same socket: the kernel uses an address again.
fn is_next(one: &Event, next: &Event) -> bool {
    let cookies = (one.record().cookie, next.record().cookie);
    let is_same = cookies.0 == 0 || cookies.1 == 0 || cookies.0 == cookies.1;
    is_same && one.newstate() == next.oldstate()
}
