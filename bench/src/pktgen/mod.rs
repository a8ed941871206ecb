//! A generator of frames and the sink that judges what arrives of them.

pub mod arguments;
pub mod flows;
pub mod frame;
pub mod plan;
pub mod report;
pub mod size;

use anyhow::{Result, bail};

pub use arguments::{Arguments, Output};
pub use plan::Plan;
pub use report::Report;

/// Runs the plan.
///
/// # Errors
/// When devices, namespaces or processes cannot be had, or flows cannot be established.
pub fn run(plan: &Plan) -> Result<Report> {
    bail!("the generator is not built yet; it would send from {} to {}", plan.from, plan.to)
}
