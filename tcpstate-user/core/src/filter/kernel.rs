//! The part of a choice that the BPF programs make.

use tcpstate_common::config::{self, PortBitmap};

/// The conditions that the BPF programs check.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelFilter<'a> {
    config: config::Filter,
    bitmaps: [Option<&'a PortBitmap>; 3],
}

impl<'a> KernelFilter<'a> {
    /// With the bitmaps for [`config::LOCAL_PORTS`], [`config::REMOTE_PORTS`] and [`config::PORTS`], each if the
    /// configuration uses it.
    pub(crate) const fn new(config: &config::Filter, bitmaps: [Option<&'a PortBitmap>; 3]) -> Self {
        Self {
            config: *config,
            bitmaps,
        }
    }

    /// The filter's part of [`config::Config`].
    pub const fn config(&self) -> config::Filter {
        self.config
    }

    /// The bitmaps for [`config::LOCAL_PORTS`], [`config::REMOTE_PORTS`] and [`config::PORTS`].
    pub const fn bitmaps(&self) -> [Option<&'a PortBitmap>; 3] {
        self.bitmaps
    }
}
