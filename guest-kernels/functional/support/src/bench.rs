//! What `bench-ops` and `bench-echo` agree on.

/// Channel whose events the echo answers.
pub const ECHO: &str = "echo";
/// Channel whose first event lets the echo give up the CPU again and again, and whose second ends
/// that.
pub const YIELD: &str = "yield";
/// Channel over which the echo sends a grant.
pub const GRANT: &str = "grant";
