//! Settings of the kernel, as texts about states and findings name them.

/// A setting of a network namespace.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its file below `/proc/sys`.
    pub path: &'static str,
    /// Its effect on the state.
    pub effect: &'static str,
}

impl Setting {
    /// Its name as `sysctl` has it.
    pub fn name(&self) -> String {
        self.path.replace('/', ".")
    }
}
