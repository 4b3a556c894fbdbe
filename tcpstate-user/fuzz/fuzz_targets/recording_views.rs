//! Every view of any recording ends, whatever the recording says, and the books of its events balance.
//!
//! The first two bytes select the view and the options of the run. The rest is a file, which gets the right lengths
//! and checksums here: otherwise no change would get past them.
#![no_main]

#[path = "../../tests/support/repair.rs"]
mod repair;

use std::{
    io,
    task::{Context, Poll},
    time::Duration,
};

use libfuzzer_sys::{Corpus, fuzz_target};
use tcpstate::{
    recorder::{self, Record, To},
    run::{Interrupt, Interrupts, Options, Outputs, drive},
};
use tcpstate_core::{
    expression::{Expression, NoNames},
    model::{By, Limits},
    options::{Format, HistogramOf, Until},
    view::View,
};
use tcpstate_recording::{FlightOptions, Options as WriterOptions, Reader};
use tcpstate_text::{
    format::text::Columns,
    hist::{self, Hist},
    life::{self, Life},
    rates::{self, Rates},
    settings::Settings,
    trace::{self, Trace},
};

/// Nobody interrupts.
struct Never;

impl Interrupts for Never {
    fn poll_interrupt(&mut self, _: &mut Context<'_>) -> Poll<Interrupt> {
        Poll::Pending
    }
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((&[view, run], file)) = input.split_first_chunk() else {
        return Corpus::Reject;
    };
    let Ok(mut reader) = Reader::in_place(repair::repair(file)) else {
        return Corpus::Reject;
    };
    let few = run & 1 == 1;
    let limits = Limits {
        max_connections: if few { 3 } else { 1_000 },
        max_ports: if few { 2 } else { 100 },
        max_listeners: if few { 2 } else { 1_000 },
        max_embryos: if few { 2 } else { 100 },
        ..Limits::default()
    };
    let options = Options {
        duration: (run & 2 != 0).then_some(Duration::from_secs(5)),
        expression: {
            let sockets = if run & 4 == 0 { "" } else { "sport 443" };
            let owners = if run & 8 == 0 { "" } else { "comm curl" };
            let text = format!("{sockets} {owners}");
            Expression::parse(&text, &NoNames).expect("an expression")
        },
        limits,
        interactive: false,
        verbose: run & 16 != 0,
        ..Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let (mut out, mut err) = (io::sink(), io::sink());
    let outputs = Outputs {
        out: &mut out,
        err: &mut err,
    };
    let mut view = view_of(view, run, limits);
    let mut never = Never;
    let run = drive(&mut reader, view.as_mut(), outputs, &mut never, &options);
    runtime.block_on(run).expect("nothing fails but the view");
    Corpus::Keep
});

/// The view that a byte selects: the command by its low bits, the format and the command's options by the others.
fn view_of(view: u8, run: u8, limits: Limits) -> Box<dyn View> {
    let format = [Format::Text, Format::Json, Format::Csv][usize::from(view >> 3) % 3];
    let settings = Settings {
        limits,
        ..Settings::plain(format)
    };
    let option = run >> 4;
    match view & 7 {
        0 => Box::new(Trace::new(&trace::Options {
            settings,
            states: None,
            count: None,
            columns: Columns::Wide,
            time: option & 1 == 0,
            reset_reason: true,
            timestamp: option & 2 == 0,
        })),
        1 | 2 => Box::new(Life::new(&life::Options {
            settings,
            live: option & 1 == 0,
            until: [Until::Close, Until::Gone][usize::from(view & 7) - 1],
            expression: Expression::default(),
            states: None,
            causes: None,
            longer_than: (option & 2 != 0).then_some(Duration::from_millis(1)),
            count: None,
            columns: Columns::Wide,
            time: option & 4 == 0,
            timestamp: option & 4 == 0,
            reset_reason: true,
        })),
        3 | 4 => Box::new(Hist::new(&hist::Options {
            settings,
            of: if option & 4 == 0 {
                HistogramOf::default()
            } else {
                HistogramOf::Transitions
            },
            by: By::ALL[usize::from(option) % By::ALL.len()],
            states: None,
            causes: None,
            interval: (option & 1 != 0).then_some(Duration::from_millis(10)),
            count: None,
            unicode: option & 2 != 0,
        })),
        5 | 6 => Box::new(Rates::new(&rates::Options {
            settings,
            interval_ns: if option & 4 == 0 { 1_000_000_000 } else { 1 },
            by: By::ALL[usize::from(option) % By::ALL.len()],
            in_kernel: false,
        })),
        _ => Box::new(Record::new(recorder::Options {
            path: "/dev/null".into(),
            format,
            to: if option & 1 == 0 {
                To::File(WriterOptions::default())
            } else {
                To::Memory(FlightOptions::default())
            },
        })),
    }
}
