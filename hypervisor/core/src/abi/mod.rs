//! The front-ends by which guests ask for things: what their arguments must look like and what their
//! frames and tables mean. State lives elsewhere.

pub mod native;
