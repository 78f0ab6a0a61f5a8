//! How much of a set a node keeps: its budget, and what goes when that is used up.

mod here;
mod keeper;
mod sweep;

use crate::system::SetBuilder;
use crate::value::Value;

pub use here::BudgetInfo;
pub(crate) use here::Budgets;

/// The least budget of a set: a handful of objects, so that what is on its way has room.
pub const LEAST_BUDGET_BYTES: usize = 64 << 10;

impl<T: Value> SetBuilder<T> {
    /// About so many bytes of the set stay on this node: its values as they are encoded, and 120 bytes for each. When there
    /// is more, what was not used for the longest time goes, as a clock with one hand knows it: first copies to read, which
    /// are fetched again; then what this node owns, if a [linker](SetBuilder::linker) has it. Without one, what this node
    /// owns stays and does not count: the last copy never goes. Each node has a budget of its own; the last handle that
    /// names one decides. At least [`LEAST_BUDGET_BYTES`](crate::budget::LEAST_BUDGET_BYTES).
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let store = kddm::linker::Memory::default();
    /// let rows: kddm::Set<String> = nodes[0].set("rows").linker("rows", store).memory_budget(64 << 10).open().wait()?;
    /// for row in 0..200 {
    ///     rows.update(row, move |text| Ok(*text = format!("{row}").repeat(1_000))).wait()?;
    /// }
    /// assert_eq!(rows.get(7).wait()?.len(), 1_000); // from here, or from the store
    /// assert!(rows.budget().expect("it has one").bytes < 128 << 10);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `OutOfRange`, when it is opened, if it is too small; `Attached` in a program that is attached to a node.
    pub fn memory_budget(mut self, bytes: usize) -> SetBuilder<T> {
        self.memory_budget = Some(bytes);
        self
    }
}
