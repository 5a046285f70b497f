//! A least-recently-used cache bounded in bytes.

use std::hash::Hash;

use lru::LruCache;

/// Keeps the values used last, as many as fit into its capacity.
pub struct ByteLru<K, V> {
    values: LruCache<K, (V, usize)>,
    bytes: usize,
    capacity: usize,
}

impl<K: Eq + Hash, V: Clone> ByteLru<K, V> {
    /// An empty one for up to `capacity` bytes; 0 keeps nothing.
    pub fn new(capacity: usize) -> Self {
        Self { values: LruCache::unbounded(), bytes: 0, capacity }
    }

    /// Bytes of what is kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The value of a key, which from now on is the one used last.
    pub fn get(&mut self, key: &K) -> Option<V> {
        self.values.get(key).map(|(value, _)| value.clone())
    }

    /// Keeps a value of this size and lets go of the least recently used ones that it displaces. A
    /// value larger than the whole capacity is not kept, and displaces nothing but its key's own
    /// old value.
    pub fn insert(&mut self, key: K, value: V, bytes: usize) {
        if let Some((_, old)) = self.values.pop(&key) {
            self.bytes -= old;
        }
        if bytes > self.capacity {
            return;
        }
        while self.bytes > self.capacity - bytes
            && let Some((_, (_, old))) = self.values.pop_lru()
        {
            self.bytes -= old;
        }
        self.bytes += bytes;
        self.values.put(key, (value, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(lru: &mut ByteLru<u32, u32>) -> Vec<u32> {
        (0..10).filter_map(|key| lru.get(&key)).collect()
    }

    #[test]
    fn the_least_recently_used_make_room() {
        let mut lru = ByteLru::new(10);
        lru.insert(1, 1, 4);
        lru.insert(2, 2, 4);
        assert_eq!((lru.get(&1), lru.bytes()), (Some(1), 8));
        lru.insert(3, 3, 6);
        assert_eq!(kept(&mut lru), [1, 3]);
        assert_eq!(lru.bytes(), 10);
        lru.insert(4, 4, 10);
        assert_eq!((kept(&mut lru), lru.bytes()), (vec![4], 10));
    }

    #[test]
    fn a_key_has_one_value() {
        let mut lru = ByteLru::new(10);
        lru.insert(1, 1, 9);
        lru.insert(1, 7, 3);
        assert_eq!((kept(&mut lru), lru.bytes()), (vec![7], 3));
    }

    #[test]
    fn what_is_too_large_displaces_nothing_else() {
        let mut lru = ByteLru::new(10);
        lru.insert(1, 1, 5);
        lru.insert(2, 2, 5);
        lru.insert(3, 3, 11);
        assert_eq!(kept(&mut lru), [1, 2]);
        lru.insert(2, 9, 11);
        assert_eq!((kept(&mut lru), lru.bytes()), (vec![1], 5), "an old value would be wrong");
    }

    #[test]
    fn without_capacity_nothing_is_kept() {
        let mut lru = ByteLru::new(0);
        lru.insert(1, 1, 1);
        assert_eq!((kept(&mut lru), lru.bytes()), (vec![], 0));
    }
}
