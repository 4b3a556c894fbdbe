//! Slow links between network namespaces, by the queueing discipline `netem`.

use std::{net::Ipv4Addr, process::Command, sync::LazyLock, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::net::{Netns, ip};

pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The minimum delay of a packet one way: the delay less its variation.
pub const AT_LEAST: Duration = Duration::from_millis(20);
/// Packets overtake each other by the variation of their delay.
const REORDERING: &[&str] = &["delay", "40ms", "20ms"];
pub const LOSING: &[&str] = &["delay", "40ms", "20ms", "loss", "10%"];

/// Two ends of a veth device in namespaces of their own, packets queued by `netem` on both.
pub struct Link<'a> {
    ends: [&'a Netns; 2],
}

impl<'a> Link<'a> {
    /// Must be called in `near`, after [`Netns::run_until_quiet`] has counted its sockets, so that it also
    /// waits for those of `ip` and `tc`.
    pub fn new(near: &'a Netns, far: &'a Netns) -> Result<Self> {
        let path = far.path();
        let path = path.to_str().context("a path that is no text")?;
        ip(&[
            "link", "add", "end", "type", "veth", "peer", "name", "end", "netns", path,
        ])?;
        let link = Self { ends: [near, far] };
        for (end, address) in [(near, NEAR), (far, FAR)] {
            end.run(|| {
                // Each segment is a packet of its own, to be delayed and lost separately.
                ip(&["link", "set", "end", "gso_max_segs", "1", "up"])?;
                ip(&["addr", "add", &format!("{address}/24"), "dev", "end"])
            })?;
        }
        link.netem("add", REORDERING)?;
        Ok(link)
    }

    pub fn netem(&self, action: &str, conditions: &[&str]) -> Result<()> {
        let words = [
            &["qdisc", action, "dev", "end", "root", "netem"][..],
            conditions,
        ];
        for end in self.ends {
            end.run(|| {
                let output = Command::new("tc").args(words.concat()).output();
                let output = output.context("tc")?;
                let stderr = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "tc: {stderr}");
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The reason why `Need::Netem` is not met, found by trying.
pub fn missing_netem() -> Option<String> {
    static MISSING: LazyLock<Option<String>> = LazyLock::new(|| {
        let tried = || {
            let (near, far) = (Netns::new()?, Netns::new()?);
            near.run(|| Link::new(&near, &far).map(drop))
        };
        tried().err().map(|error| format!("no netem: {error:#}"))
    });
    MISSING.clone()
}
