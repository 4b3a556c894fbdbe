//! The progress bar of reading a recording on a terminal.
//!
//! It is shown only if it does not interfere with other output: standard error is a terminal, and standard
//! output is not one or is written at the end. It is removed before anything else is written.

use std::{
    fmt,
    io::{self, BufWriter, IsTerminal, Write as _},
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use rustix::termios::tcgetwinsize;
use tcpstate_core::{
    books::{Accounting, CaptureCost, Load, Packets},
    event::Event,
    names::Names,
    origin::Origin,
    source::{Counting, EventSource, Progress, SourceError, Step},
    view::View,
};

use super::{stdout, stream::Stream};

/// Drawings of the bar in a second.
const RATE: u8 = 20;

/// Whether the source has a known length, and there is a terminal to show its progress on.
pub fn is_wanted(source: &dyn EventSource, view: &dyn View) -> bool {
    let ends = source
        .progress()
        .is_some_and(|progress| progress.total_bytes.is_some());
    let is_free = !stdout::is_terminal() || view.is_silent_until_finish();
    ends && is_free && rustix::stdio::stderr().is_terminal()
}

/// A source whose progress is shown.
pub struct WithProgress {
    source: Box<dyn EventSource>,
    bar: ProgressBar,
}

impl WithProgress {
    /// Shows it on standard error.
    pub fn new(source: Box<dyn EventSource>) -> Self {
        let terminal = Terminal(Mutex::new(BufWriter::new(Stream::stderr())));
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal), RATE);
        let total = source.progress().and_then(|progress| progress.total_bytes);
        let bar = ProgressBar::with_draw_target(total, target);
        // The template is a constant, and a test parses it.
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("## "));
        }
        Self { source, bar }
    }
}

/// The terminal on standard error. It may be stopped (Ctrl-S), and then does not keep the run from its end.
struct Terminal(Mutex<BufWriter<Stream>>);

impl Terminal {
    fn write(&self, text: fmt::Arguments<'_>) -> io::Result<()> {
        let mut terminal = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        terminal.write_fmt(text)
    }

    /// Moves the cursor, if at all: the terminal takes 0 for 1.
    fn move_cursor(&self, by: usize, direction: char) -> io::Result<()> {
        if by == 0 {
            return Ok(());
        }
        self.write(format_args!("\x1b[{by}{direction}"))
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Terminal")
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        let size = tcgetwinsize(rustix::stdio::stderr()).ok();
        size.map_or(80, |size| size.ws_col)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'D')
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.write(format_args!("{line}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.write(format_args!("{text}"))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.write(format_args!("\r\x1b[2K"))
    }

    fn flush(&self) -> io::Result<()> {
        let mut terminal = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        terminal.flush()
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
            Poll::Ready(Ok(
                Step::Events | Step::Census(_) | Step::Recalled(_) | Step::Packets(_),
            )) => {
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

    fn load(&mut self) -> Load {
        self.source.load()
    }

    fn packets(&self) -> Option<Packets> {
        self.source.packets()
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
