//! Looking into a recording before it is shown.

// A file may have any numbers.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use tcpstate_core::event::Event;

use crate::{
    block::{BLOCK_HEADER, BlockHeader, Footer, Kind, MAX_FOOTER},
    reader::ReadError,
    scan::{Scanned, Scanner},
};

/// A failure to read this file.
fn cannot_read(path: &Path) -> impl Fn(io::Error) -> ReadError {
    let name = path.display().to_string();
    move |source| ReadError::Read {
        name: name.clone(),
        source,
    }
}

/// Opens a file to look at it before it is shown; `None` of a pipe, which can be read only once.
fn look_into(path: &Path) -> Result<Option<Scanner<File>>, ReadError> {
    let open = |source| ReadError::Open {
        path: path.to_owned(),
        source,
    };
    let is_file = path.as_os_str() != "-" && std::fs::metadata(path).map_err(open)?.is_file();
    if !is_file {
        return Ok(None);
    }
    let file = File::open(path).map_err(open)?;
    match Scanner::open(file).map_err(cannot_read(path))? {
        Ok(scanner) => Ok(Some(scanner)),
        Err(reason) => Err(ReadError::NotReadable {
            name: path.display().to_string(),
            reason,
        }),
    }
}

/// Whether there are sockets of several network namespaces in a recording, as far as its first million events show. `None` of a
/// pipe, which can be read only once.
pub fn has_several_netns(path: &Path) -> Result<Option<bool>, ReadError> {
    const ENOUGH: usize = 1_000_000;
    let Some(mut scanner) = look_into(path)? else {
        return Ok(None);
    };
    let (mut events, mut seen, mut first) = (Vec::new(), 0usize, None);
    while seen < ENOUGH {
        events.clear();
        let step = scanner.step(&mut events).map_err(cannot_read(path))?;
        seen = seen.saturating_add(events.len());
        let census = scanner
            .take_census()
            .filter(|census| !census.found.is_empty());
        // Anything not taken would be kept.
        drop(scanner.take_recalled());
        drop((scanner.cgroups(), scanner.notices()));
        let of_events = events.iter().filter_map(Event::netns);
        for netns in of_events.chain(census.map(|census| census.netns)) {
            if *first.get_or_insert(netns) != netns {
                return Ok(Some(true));
            }
        }
        if step == Scanned::End {
            break;
        }
    }
    Ok(Some(false))
}

/// When a recording ends, monotonic nanoseconds: when its capture did, or else with its last event. `None` of a pipe,
/// which can be read only once.
///
/// It reads the headers of the blocks; all of the file only where that is damaged, or cut.
pub fn end_of(path: &Path) -> Result<Option<u64>, ReadError> {
    let read = cannot_read(path);
    let Some(mut scanner) = look_into(path)? else {
        return Ok(None);
    };
    let begin_ns = scanner.metadata().origin.started_ns;
    let by_headers =
        File::open(path).and_then(|file| end_by_headers(&file, scanner.offset(), begin_ns));
    if let Some(end_ns) = by_headers.map_err(&read)? {
        return Ok(Some(end_ns));
    }
    let (mut events, mut last_ns) = (Vec::new(), 0);
    loop {
        events.clear();
        let step = scanner.step(&mut events).map_err(&read)?;
        let latest_ns = events.iter().map(Event::ts_ns).max();
        last_ns = last_ns.max(latest_ns.unwrap_or(0));
        // Anything not taken would be kept.
        drop((scanner.take_census(), scanner.take_recalled()));
        drop((scanner.cgroups(), scanner.notices()));
        if step == Scanned::End {
            let end_ns = scanner.books().end_ns;
            return Ok(Some(end_ns.unwrap_or(last_ns.max(begin_ns))));
        }
    }
}

/// The end of a recording that begins at this time and whose blocks begin at this offset, as their headers and its
/// footer tell it; `None` where one of these is not whole.
fn end_by_headers(file: &File, mut offset: u64, begin_ns: u64) -> io::Result<Option<u64>> {
    let read = |bytes: &mut [u8], offset| match file.read_exact_at(bytes, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        result => result.map(|()| true),
    };
    let mut last_ns = begin_ns;
    loop {
        let mut bytes = [0; BLOCK_HEADER];
        if !read(&mut bytes, offset)? {
            return Ok(None);
        }
        let Some(header) = BlockHeader::from_bytes(&bytes) else {
            return Ok(None);
        };
        let begin = offset.saturating_add(BLOCK_HEADER as u64);
        match header.kind {
            Kind::EVENTS => last_ns = last_ns.max(header.last_ts_ns),
            Kind::FOOTER if header.stored_bytes as usize <= MAX_FOOTER => {
                let mut payload = vec![0; header.stored_bytes as usize];
                if !read(&mut payload, begin)? || !header.matches(&payload) {
                    return Ok(None);
                }
                let footer = Footer::from_payload(&payload).ok();
                return Ok(footer.map(|footer| footer.end_ns.unwrap_or(last_ns)));
            }
            _ => {}
        }
        offset = begin.saturating_add(header.stored_bytes.into());
    }
}
