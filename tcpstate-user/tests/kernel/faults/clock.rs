//! The wall clock is set during a run.

use std::{
    env,
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::number;
use crate::{
    need::trial,
    net::{Netns, unused_port},
    process::Tcpstate,
};

/// The variable that allows it if it is `1`, because it is the whole machine's clock.
const MAY_STEP: &str = "TCPSTATE_MAY_STEP_CLOCK";

pub fn add(trials: &mut Vec<Trial>) {
    let name = "faults::clock_stepped";
    if env::var_os(MAY_STEP).is_some_and(|value| value == "1") {
        trials.push(trial(name, &[], clock_stepped));
    } else {
        // Not a failure even if kernel tests are required: a clock is set only with permission.
        eprintln!("{name}: skipped: it sets the machine's clock, which {MAY_STEP}=1 allows");
        trials.push(Trial::test(name, || Ok(())).with_ignored_flag(true));
    }
}

/// Sets the clock forward or back, and undoes that when dropped.
struct Step(Duration, bool);

impl Step {
    fn new(by: Duration, forward: bool) -> Result<Self> {
        set(by, forward)?;
        Ok(Self(by, forward))
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // An error cannot be reported here.
        let _ = set(self.0, !self.1);
    }
}

fn set(by: Duration, forward: bool) -> Result<()> {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Realtime);
    let seconds = i64::try_from(by.as_secs())?;
    let tv_sec = if forward {
        tv_sec + seconds
    } else {
        tv_sec - seconds
    };
    clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec }).context("clock_settime")
}

/// Dwell times stay right, and times stay monotonic, when the wall clock is set.
fn clock_stepped() -> Result<()> {
    for forward in [true, false] {
        let (netns, port) = (Netns::new()?, unused_port());
        let tcpstate = Tcpstate::start(&["trace", "--json", "-P", &port.to_string()])?;
        let before = Instant::now();
        let inner = netns.run_until_quiet(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
            let start = Instant::now();
            let _step = Step::new(Duration::from_hours(1), forward)?;
            let inner = start.elapsed();
            drop(listener);
            Ok(inner)
        })?;
        let outer = before.elapsed();
        let (lines, _) = tcpstate.stop()?.transitions()?;
        ensure!(lines.len() == 2, "{lines:?}");
        let times = lines.iter().map(|line| number(line, &["ts_ns"]));
        let times = times.collect::<Result<Vec<_>>>()?;
        let dwell = Duration::from_nanos(number(&lines[1], &["dwell_ns"])?);
        ensure!(
            times.is_sorted() && (inner..=outer).contains(&dwell),
            "{inner:?} to {outer:?}: {lines:?}"
        );
    }
    Ok(())
}
