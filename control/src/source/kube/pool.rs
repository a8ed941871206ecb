//! One copy of what many objects say alike: the names of namespaces and nodes, whole sets of labels.
//!
//! A cluster of 150,000 pods has some hundred namespaces. Whoever keeps such a value takes a
//! reference counted copy from the pool. What only the pool still holds is dropped by
//! [`Pool::sweep`], which costs a look at every value and is therefore the caller's to time.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Values of one type, each once.
#[derive(Debug)]
pub struct Pool<T: ?Sized + Eq + Hash> {
    values: HashSet<Arc<T>>,
}

impl<T: ?Sized + Eq + Hash> Default for Pool<T> {
    fn default() -> Self {
        Self { values: HashSet::new() }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    /// The pool's copy of a value, which is made if there is none.
    pub fn get<Q>(&mut self, value: &Q) -> Arc<T>
    where
        Q: ?Sized + Eq + Hash,
        Arc<T>: Borrow<Q> + for<'a> From<&'a Q>,
    {
        if let Some(known) = self.values.get(value) {
            return Arc::clone(known);
        }
        let new = Arc::<T>::from(value);
        self.values.insert(Arc::clone(&new));
        new
    }

    /// Drops what nobody else holds; how many values remain.
    pub fn sweep(&mut self) -> usize {
        self.values.retain(|value| Arc::strong_count(value) > 1);
        self.values.shrink_to_fit();
        self.values.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_go_when_nobody_holds_them() {
        let mut pool = Pool::<str>::default();
        let (a, again) = (pool.get("shop"), pool.get(&String::from("shop")[..]));
        assert!(Arc::ptr_eq(&a, &again));
        let b = pool.get("web");
        assert_eq!(pool.sweep(), 2);
        drop((a, again));
        assert_eq!(pool.sweep(), 1);
        assert!(Arc::ptr_eq(&b, &pool.get("web")));
    }
}
