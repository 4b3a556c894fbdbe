//! `tcpstate top`.

#[cfg(not(feature = "top"))]
pub(crate) fn run(_arguments: tcpstate_cli::Top) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!(
        "this build has no `top`; one with the feature `top`, as by default, has it, and `tcpstate rates` needs none"
    )
}

#[cfg(feature = "top")]
pub(crate) use self::built_in::run;

#[cfg(feature = "top")]
mod built_in {
    use std::{
        env,
        io::{self, IsTerminal as _, Write},
        process::ExitCode,
        sync::Arc,
        task::{Context, Poll},
    };

    use tcpstate::{
        run::{signals, stdout},
        top::{LONGEST, LastMinutes, published},
    };
    use tcpstate_core::{
        books::RunBooks,
        census::Census,
        diagnosis::{Look, Looks, Thresholds},
        duration::nanoseconds,
        event::Event,
        expression::Moment,
        names::Names,
        origin::Origin,
        play::{Controls, controls},
        present::{Publisher, Subscriber},
        recalled::Recalled,
        tally::Tally,
        view::{End, Flow, Rewind, View},
    };
    use tcpstate_text::{books::write_books, settings::Settings};
    use tcpstate_top::{
        App, Input, LAYOUT, LookUp, Options, Theme, plain,
        terminal::{self, Keeper, Run, Running},
    };
    use tokio::sync::Notify;

    use crate::{
        commands::diagnose::thresholds,
        looks::{Background, Last, Looker, Pace},
        message::BadUsage,
        selection::{Selection, names},
        watch::{columns, settings, watch_until},
    };

    /// The columns of a frame on a pipe.
    const WIDTH: usize = 80;

    pub(crate) fn run(mut arguments: tcpstate_cli::Top) -> anyhow::Result<ExitCode> {
        let selection = Selection::of("top", Moment::Always, &arguments.watch)?;
        let columns = columns(&LAYOUT, &arguments.columns);
        let is_live = arguments.watch.read.is_none();
        let once = arguments.once;
        if !once && !arguments.watch.explain_filter {
            refuse_without_screen()?;
        }
        let settings = settings(&arguments.watch, arguments.bounds, None);
        let interval_ns = nanoseconds(arguments.interval);
        let snapshots = published(interval_ns, arguments.by, settings.limits);
        let limits = snapshots.limits;
        let app = App::new(Options {
            theme: theme(&settings),
            zone: settings.zone.clone(),
            several_netns: settings.several_netns,
            columns,
            by: arguments.by,
            interval_ns,
            filter: selection.to_string(),
            longest: LONGEST,
            names: LookUp(Arc::new(names(is_live))),
            is_played: !is_live && !once,
        });
        let mut publisher = Publisher::new(&snapshots);
        let thresholds = thresholds(arguments.rules.as_deref())?;
        let (first, looks) = if is_live && !arguments.watch.explain_filter {
            looks(&arguments, &selection, &thresholds, once)?
        } else {
            (Look::default(), None)
        };
        publisher = publisher.diagnosing(thresholds, first, looks);
        let frames = arguments.watch.count.take();
        let (controls, inbox) = controls();
        let (controls, inbox) = if is_live || once {
            (None, None)
        } else {
            (Some(controls), Some(inbox))
        };
        // A recording that is read is in a file already, and of one frame nobody asks for more.
        let (last_minutes, keeper) = if is_live && !once {
            let (last_minutes, keeper) = LastMinutes::new();
            (Some(last_minutes), Some(keeper))
        } else {
            (None, None)
        };
        let quit = Arc::new(Notify::new());
        let mut view = Top {
            subscriber: publisher.subscribe(),
            publisher: Some(publisher),
            // One frame is that of the first interval; a recording has all of its intervals before.
            frames: frames.or((once && is_live).then_some(1)),
            mode: if once {
                let width = stdout::width().or_else(columns_of_environment);
                Mode::Once(Box::new(app), width.unwrap_or(WIDTH))
            } else {
                Mode::Waiting(Box::new(app))
            },
            controls,
            last_minutes,
            keeper,
            quit: Arc::clone(&quit),
        };
        let until = async move { quit.notified().await };
        let code = watch_until(
            &arguments.watch,
            &selection,
            limits,
            &mut view,
            inbox,
            until,
        );
        // Before anything is said about how it ended.
        view.give_back();
        code
    }

    /// The screens are for a person at a terminal, who has the keys.
    fn refuse_without_screen() -> anyhow::Result<()> {
        let has_terminal = stdout::is_terminal() && io::stdin().is_terminal();
        let why = if !has_terminal {
            "top needs a terminal; --once prints a frame as plain text, and `tcpstate rates` a block each interval"
        } else if env::var_os("TERM").is_none_or(|term| term == "dumb") {
            "top needs a terminal that can do more than TERM says (dumb, or not set); --once prints a frame as plain \
             text"
        } else {
            return Ok(());
        };
        Err(BadUsage(why.to_owned()).into())
    }

    /// A first look at the host's sockets, and those that follow.
    fn looks(
        arguments: &tcpstate_cli::Top,
        selection: &Selection,
        thresholds: &Thresholds,
        once: bool,
    ) -> anyhow::Result<(Look, Option<Box<dyn Looks>>)> {
        let looker = Looker::new(&arguments.watch, selection, thresholds);
        let first = looker.look(&[]);
        // On a screen nobody sees what a look at the end finds.
        let last = if once { Last::Now } else { Last::Latest };
        let looks = Background::start(looker, last, Pace::SHOWN)?;
        Ok((first, Some(Box::new(looks))))
    }

    fn theme(settings: &Settings) -> Theme {
        // The first of these that is set says it.
        let names = ["LC_ALL", "LC_CTYPE", "LANG"];
        let set = names.iter().filter_map(env::var_os);
        let locale = set.into_iter().find(|value| !value.is_empty());
        let locale = locale.unwrap_or_default().to_string_lossy().to_lowercase();
        Theme {
            colour: settings.colour,
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    fn columns_of_environment() -> Option<usize> {
        let columns = env::var("COLUMNS").ok()?.parse().ok()?;
        (columns > 0).then_some(columns)
    }

    /// The use of the snapshots.
    enum Mode {
        /// A screen that is to be shown when the source has started: until then, errors are said as usual.
        Waiting(Box<App>),
        /// A screen.
        Screen(Running),
        /// One frame, at the end, in so many columns.
        Once(Box<App>, usize),
    }

    /// The publisher of snapshots, with the one who shows them.
    struct Top {
        /// `None`: the snapshots have ended.
        publisher: Option<Publisher>,
        subscriber: Subscriber,
        /// The intervals until the end; `None`: the user says when.
        frames: Option<u64>,
        mode: Mode,
        /// Those of a recording that is played.
        controls: Option<Controls>,
        /// Of a live run with a screen.
        last_minutes: Option<LastMinutes>,
        /// The way to them, for the screen.
        keeper: Option<Box<dyn Keeper>>,
        quit: Arc<Notify>,
    }

    impl Top {
        /// Ends the snapshots, and waits until the terminal is as it was.
        fn give_back(&mut self) {
            self.publisher = None;
            if let Mode::Screen(running) = &self.mode {
                running.join();
            }
        }

        fn look(&mut self) {
            if let Mode::Once(app, _) = &mut self.mode
                && let Some(snapshot) = self.subscriber.latest()
            {
                app.update(Input::Snapshot(snapshot));
            }
        }

        fn publisher(&mut self) -> Option<&mut Publisher> {
            self.publisher.as_mut()
        }
    }

    impl View for Top {
        fn set_names(&mut self, names: Names) {
            if let Some(last_minutes) = &mut self.last_minutes {
                last_minutes.set_names(names.clone());
            }
            if let Some(publisher) = self.publisher() {
                publisher.set_names(names);
            }
        }

        fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
            if let Some(publisher) = self.publisher() {
                publisher.start(origin, out)?;
            }
            if let Some(last_minutes) = &mut self.last_minutes {
                last_minutes.start(origin);
            }
            signals::before_kill(terminal::leave_at_once);
            let Some(asker) = self.publisher.as_ref().map(Publisher::asker) else {
                return Ok(());
            };
            let run = Run {
                subscriber: self.subscriber.clone(),
                asker,
                controls: self.controls.take(),
                keeper: self.keeper.take(),
            };
            let quit = Arc::clone(&self.quit);
            let quit = move || quit.notify_one();
            take_mut(&mut self.mode, |app| Running::start(app, run, quit))
        }

        fn look_ahead(&self, events: &[Event]) {
            if let Some(publisher) = &self.publisher {
                publisher.look_ahead(events);
            }
        }

        #[inline]
        fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<Flow> {
            if let Some(last_minutes) = &mut self.last_minutes {
                last_minutes.event(event);
            }
            match self.publisher() {
                Some(publisher) => publisher.event(event, out),
                None => Ok(Flow::Done),
            }
        }

        fn census(&mut self, census: &Census, out: &mut dyn Write) -> io::Result<Flow> {
            if let Some(last_minutes) = &mut self.last_minutes {
                last_minutes.census(census);
            }
            match self.publisher() {
                Some(publisher) => publisher.census(census, out),
                None => Ok(Flow::Done),
            }
        }

        fn recall(&mut self, recalled: &Recalled) -> io::Result<Flow> {
            match self.publisher() {
                Some(publisher) => publisher.recall(recalled),
                None => Ok(Flow::Done),
            }
        }

        fn tally(&mut self, tally: &Tally) {
            if let Some(publisher) = self.publisher() {
                publisher.tally(tally);
            }
        }

        fn poll_asked(&mut self, cx: &Context<'_>) -> Poll<()> {
            if let Some(last_minutes) = &mut self.last_minutes
                && last_minutes.poll_wish(cx).is_ready()
            {
                return Poll::Ready(());
            }
            match self.publisher() {
                Some(publisher) => publisher.poll_asked(cx),
                None => Poll::Pending,
            }
        }

        fn wants_samples(&self) -> bool {
            true
        }

        fn interval_ns(&self) -> Option<u64> {
            self.publisher.as_ref()?.interval_ns()
        }

        fn wants_books(&self) -> bool {
            true
        }

        fn books(&mut self, books: &RunBooks) {
            if let Some(publisher) = self.publisher() {
                publisher.books(books);
            }
        }

        fn tick(&mut self, now_ns: u64, out: &mut dyn Write) -> io::Result<Flow> {
            if let Some(last_minutes) = &mut self.last_minutes {
                last_minutes.tick(now_ns);
            }
            if let Some(publisher) = self.publisher() {
                publisher.tick(now_ns, out)?;
            }
            self.look();
            if let Some(frames) = &mut self.frames {
                *frames = frames.saturating_sub(1);
                if *frames == 0 {
                    return Ok(Flow::Done);
                }
            }
            Ok(Flow::Continue)
        }

        fn finish(
            &mut self,
            end: &End,
            out: &mut dyn Write,
            err: &mut dyn Write,
        ) -> io::Result<()> {
            if let Some(publisher) = self.publisher() {
                publisher.finish(end, out, err)?;
            }
            self.look();
            self.give_back();
            if let Mode::Once(app, width) = &self.mode {
                plain::write(app, *width, out)?;
            }
            write_books(end, self.connections().as_ref(), err)
        }

        fn rewind(&mut self) -> Option<&mut dyn Rewind> {
            self.publisher()?.rewind()
        }

        fn is_silent_until_finish(&self) -> bool {
            matches!(self.mode, Mode::Once(..))
        }

        fn connections(&self) -> Option<tcpstate_core::model::Books> {
            let latest = self.subscriber.latest()?;
            Some(latest.tracker.books)
        }
    }

    /// Starts the screen that waits, if one does.
    fn take_mut(mode: &mut Mode, start: impl FnOnce(App) -> io::Result<Running>) -> io::Result<()> {
        match mode {
            Mode::Waiting(app) => {
                *mode = Mode::Screen(start(App::clone(app))?);
                Ok(())
            }
            Mode::Screen(_) | Mode::Once(..) => Ok(()),
        }
    }
}
