//! Findings about what is limited: ports, orphans, `TIME_WAIT`.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rustix::net::AddressFamily;

use super::{Diagnosis, ensure_at, set};
use crate::{
    need::{Need, trial},
    net::{Netns, allow_open_files, await_fin, drop_incoming, socket, unused_port},
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf, Need::Cookie];
    trials.push(trial(
        "diagnose::time_wait_table_full",
        &needs,
        time_wait_table_full,
    ));
    trials.push(trial(
        "diagnose::ports_near_exhaustion",
        &needs,
        ports_near_exhaustion,
    ));
    trials.push(trial(
        "diagnose::ports_in_time_wait",
        &needs,
        ports_in_time_wait,
    ));
    trials.push(trial(
        "diagnose::bind_before_connect",
        &needs,
        bind_before_connect,
    ));
    trials.push(trial(
        "diagnose::bind_without_port",
        &needs,
        bind_without_port,
    ));
    let needs = [
        Need::Btf,
        Need::Cookie,
        Need::Program("nft"),
        Need::FirstNetns,
    ];
    trials.push(trial(
        "diagnose::orphans_near_limit",
        &needs,
        orphans_near_limit,
    ));
}

/// Connections that their clients close first: those leave ports in `TIME_WAIT`.
fn closed_by_client(listener: &TcpListener, count: usize) -> Result<()> {
    for _ in 0..count {
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        drop(client);
        await_fin(&server)?;
    }
    Ok(())
}

/// More than fit are closed without `TIME_WAIT`.
fn time_wait_table_full() -> Result<()> {
    Netns::new()?.run(|| {
        set("ipv4/tcp_max_tw_buckets", "20")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        closed_by_client(&listener, 15)?;
        let diagnosis = Diagnosis::of("1s", "", || Ok(()))?;
        diagnosis.is("time_wait_fits")?;
        let diagnosis = Diagnosis::of("2s", "", || closed_by_client(&listener, 25))?;
        let finding = diagnosis.only("time_wait_table_full")?;
        ensure!(
            finding["figures"]["overflows"]["value"].as_u64() >= Some(15),
            "{finding}"
        );
        let port = listener.local_addr()?.port();
        ensure!(
            finding["advice"][0]
                .to_string()
                .contains(&format!("of port {port} on the side of the client")),
            "{finding}"
        );
        diagnosis.is("time_wait_table_full")
    })
}

/// Fifty ports, none of which is used again out of `TIME_WAIT`.
fn few_ports() -> Result<()> {
    set("ipv4/ip_local_port_range", "40000 40049")?;
    set("ipv4/tcp_tw_reuse", "0")
}

/// Connections to one destination take 84 % of all ports; the rest ends while we watch.
fn ports_near_exhaustion() -> Result<()> {
    Netns::new()?.run(|| {
        few_ports()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, unused_port()))?;
        let port = listener.local_addr()?.port();
        let connect = |count| -> Result<Vec<(TcpStream, TcpStream)>> {
            let one = |_| -> Result<_> {
                let client = TcpStream::connect(listener.local_addr()?)?;
                Ok((client, listener.accept()?.0))
            };
            (0..count).map(one).collect()
        };
        let mut open = connect(39)?;
        let diagnosis = Diagnosis::of("1s", "", || Ok(()))?;
        diagnosis.is("most_ports_free")?;
        let diagnosis = Diagnosis::of("2s", "", || {
            open.extend(connect(3)?);
            Ok(())
        })?;
        let finding = diagnosis.only("ports_near_exhaustion")?;
        ensure_at(finding, "client", port)?;
        ensure!(finding["peer"] == "127.0.0.1", "{finding}");
        ensure!(finding["figures"]["taken"]["value"] == 42, "{finding}");
        // 3 in two seconds or so, and 8 are left.
        let left_ns = finding["figures"]["left_ns"]["value"].as_u64();
        ensure!(left_ns >= Some(1_000_000_000), "{finding}");
        ensure!(
            finding["advice"][0]
                .to_string()
                .contains("Most belong to connections that are not over"),
            "{finding}"
        );
        diagnosis.is("ports_near_exhaustion")?;
        open.extend(connect(8)?);
        let another = TcpStream::connect(listener.local_addr()?);
        ensure!(another.is_err(), "a port was left");
        let diagnosis = Diagnosis::of("1s", "", || Ok(()))?;
        drop(open);
        diagnosis.is("all_ports_taken")
    })
}

/// Ports in `TIME_WAIT` are taken, but where the kernel uses them again.
fn ports_in_time_wait() -> Result<()> {
    Netns::new()?.run(|| {
        few_ports()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, unused_port()))?;
        closed_by_client(&listener, 45)?;
        let diagnosis = Diagnosis::of("1s", "", || Ok(()))?;
        let finding = diagnosis.only("ports_near_exhaustion")?;
        ensure!(finding["figures"]["time_wait"]["value"] == 45, "{finding}");
        ensure!(
            finding["advice"][0]
                .to_string()
                .contains("Most are in TIME_WAIT"),
            "{finding}"
        );
        diagnosis.is("ports_in_time_wait")?;
        // The default, which is about loopback.
        set("ipv4/tcp_tw_reuse", "2")?;
        let diagnosis = Diagnosis::of("1s", "", || Ok(()))?;
        diagnosis.is("ports_used_again")?;
        // It is so: there is room for 45 more, and 5 that never were used.
        let connect = |_| Ok(TcpStream::connect(listener.local_addr()?)?);
        let open = (0..40).map(connect).collect::<Result<Vec<_>>>()?;
        ensure!(open.len() == 40, "{}", open.len());
        Ok(())
    })
}

/// Clients of three destinations, 14 of each. `prepare` is called with a socket before it connects.
fn clients_of_three(prepare: impl Fn(&std::os::fd::OwnedFd) -> Result<()>) -> Result<Diagnosis> {
    few_ports()?;
    let mut open = Vec::new();
    for last in 1..=3 {
        let to = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), unused_port()));
        let listener = TcpListener::bind(to)?;
        for _ in 0..14 {
            let client = socket(AddressFamily::INET, None)?;
            prepare(&client)?;
            rustix::net::connect(&client, &to)?;
            open.push((TcpStream::from(client), listener.accept()?.0));
        }
        // It stays: roles are told by it.
        std::mem::forget(listener);
    }
    Diagnosis::of("1s", "", || Ok(()))
}

fn bind_before_connect() -> Result<()> {
    Netns::new()?.run(|| {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let diagnosis = clients_of_three(|client| Ok(rustix::net::bind(client, &any)?))?;
        let finding = diagnosis.only("bind_before_connect")?;
        ensure!(finding["role"] == "client", "{finding}");
        ensure!(finding["figures"]["taken"]["value"] == 42, "{finding}");
        ensure!(
            finding["figures"]["destinations"]["value"] == 3,
            "{finding}"
        );
        diagnosis.is("bind_before_connect")
    })
}

/// The same without `bind()`, and with a `bind()` that leaves the port to `connect()`.
fn bind_without_port() -> Result<()> {
    Netns::new()?.run(|| clients_of_three(|_| Ok(()))?.is("bind_without_port"))?;
    Netns::new()?.run(|| {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let diagnosis = clients_of_three(|client| {
            let on: libc::c_int = 1;
            // SAFETY: the kernel reads one `int`, whose length is given.
            let result = unsafe {
                libc::setsockopt(
                    client.as_raw_fd(),
                    libc::IPPROTO_IP,
                    libc::IP_BIND_ADDRESS_NO_PORT,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>().try_into()?,
                )
            };
            ensure!(result == 0, "{}", std::io::Error::last_os_error());
            Ok(rustix::net::bind(client, &any)?)
        })?;
        diagnosis.is("bind_without_port")
    })
}

/// Orphans are those of the whole host, whatever namespace they are in. A hundredth of the limit stands for half of it.
fn orphans_near_limit() -> Result<()> {
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_max_orphans")?;
    let limit = setting.trim();
    let wanted = limit.parse::<usize>()? / 100 + 50;
    allow_open_files(2 * wanted as u64 + 1_000)?;
    let netns = Netns::new()?;
    let _servers = netns.run(|| {
        let port = unused_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let connect = |_| -> Result<_> {
            let client = TcpStream::connect(listener.local_addr()?)?;
            Ok((client, listener.accept()?.0))
        };
        let open = (0..wanted).map(connect).collect::<Result<Vec<_>>>()?;
        drop_incoming(&[&format!("tcp dport {port}")])?;
        let (clients, servers): (Vec<_>, Vec<_>) = open.into_iter().unzip();
        drop(clients);
        Ok(servers)
    })?;
    let diagnosis = Diagnosis::of("1s", "orphans_share = 1", || Ok(()))?;
    let finding = diagnosis.only("orphans_near_limit")?;
    ensure!(finding["severity"] == "warning", "{finding}");
    ensure!(finding["netns"].is_null(), "{finding}");
    ensure!(
        finding["figures"]["orphans"]["value"].as_u64() >= Some(wanted as u64),
        "{finding}"
    );
    ensure!(
        finding["settings"]["net.ipv4.tcp_max_orphans"] == limit,
        "{finding}"
    );
    diagnosis.ensure_on_top("orphans_near_limit")?;
    // The default.
    let diagnosis = Diagnosis::of("1s", "", || Ok(()))?;
    ensure!(
        diagnosis.all("orphans_near_limit").is_empty(),
        "{}",
        diagnosis.words()
    );
    Ok(())
}
