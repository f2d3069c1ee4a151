//! What `restart-phoenix` and `restart-witness` agree on.

/// Name of their channel.
pub const CHANNEL: &str = "heartbeat";
/// How often the phoenix lives: once, and as many restarts as its system file grants.
pub const LIVES: u64 = 3;
