//! VMs that speak Xen's ABI: what they must keep, and how they are laid out.

pub(super) mod check;
mod plan;

#[cfg(test)]
mod tests;
