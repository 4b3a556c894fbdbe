//! The progress bar of reading a recording on a terminal.
//!
//! It is shown only if it does not interfere with other output: standard error is a terminal, and standard
//! output is not one or is written at the end. It is removed before anything else is written.

use std::{
    io::{self, IsTerminal},
    task::{Context, Poll},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tcpstate_core::{
    books::{Accounting, CaptureCost},
    event::Event,
    names::Names,
    origin::Origin,
    source::{Counting, EventSource, Progress, SourceError, Step},
    view::View,
};

use super::stdout;

/// Whether the source has a known length, and there is a terminal to show its progress on.
pub fn is_wanted(source: &dyn EventSource, view: &dyn View) -> bool {
    let ends = source
        .progress()
        .is_some_and(|progress| progress.total_bytes.is_some());
    let is_free = !stdout::is_terminal() || view.is_silent_until_finish();
    ends && is_free && io::stderr().is_terminal()
}

/// A source whose progress is shown.
pub struct WithProgress {
    source: Box<dyn EventSource>,
    bar: ProgressBar,
}

impl WithProgress {
    /// Shows it on standard error.
    pub fn new(source: Box<dyn EventSource>) -> Self {
        Self::on(source, ProgressDrawTarget::stderr())
    }

    fn on(source: Box<dyn EventSource>, target: ProgressDrawTarget) -> Self {
        let total = source.progress().and_then(|progress| progress.total_bytes);
        let bar = ProgressBar::with_draw_target(total, target);
        // The template is a constant, and a test parses it.
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("## "));
        }
        Self { source, bar }
    }
}

const TEMPLATE: &str = "reading [{bar:40}] {percent:>3}%  {binary_bytes}/{binary_total_bytes}";

impl EventSource for WithProgress {
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Event>,
    ) -> Poll<Result<Step, SourceError>> {
        let polled = self.source.poll_step(cx, batch);
        match &polled {
            Poll::Ready(Ok(Step::Events | Step::Census(_) | Step::Recalled(_))) => {
                if self.bar.is_finished() {
                    self.bar.reset();
                }
                if let Some(progress) = self.source.progress() {
                    self.bar.set_position(progress.read_bytes);
                }
            }
            // The notice is written next; the bar is drawn again with the next events.
            Poll::Ready(Ok(Step::Notice(_) | Step::End) | Err(_)) => self.bar.finish_and_clear(),
            Poll::Ready(Ok(Step::Settled)) | Poll::Pending => {}
        }
        polled
    }

    fn stop(&mut self) {
        self.bar.finish_and_clear();
        self.source.stop();
    }

    fn accounting(&mut self) -> Result<Accounting, SourceError> {
        self.source.accounting()
    }

    fn origin(&self) -> &Origin {
        self.source.origin()
    }

    fn intervals_from_ns(&self) -> u64 {
        self.source.intervals_from_ns()
    }

    fn ended_ns(&self) -> Option<u64> {
        self.source.ended_ns()
    }

    fn names(&self) -> Names {
        self.source.names()
    }

    fn cost(&mut self) -> CaptureCost {
        self.source.cost()
    }

    fn progress(&self) -> Option<Progress> {
        self.source.progress()
    }

    fn counting(&mut self) -> Option<&mut dyn Counting> {
        self.source.counting()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }
}
