//! A store in memory: thousands of images a second.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{Backend, Claim, Claimed, Durability, Listed, Object, Upload};

type Objects = Arc<Mutex<BTreeMap<String, Arc<Vec<u8>>>>>;

/// The objects of a store, as long as somebody has them.
#[derive(Clone, Debug, Default)]
pub struct Memory(Objects);

impl Memory {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Vec<u8>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Pending(Memory, String, Vec<u8>);

#[derive(Debug)]
struct Bytes(Arc<Vec<u8>>);

#[derive(Debug)]
struct NoClaim;

impl Backend for Memory {
    fn location(&self) -> &str {
        "memory"
    }

    fn with_durability(self: Arc<Self>, _: Durability) -> Arc<dyn Backend> {
        self
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> io::Result<bool> {
        Ok(self.objects().insert(key.to_owned(), Arc::new(bytes.to_vec())).is_none())
    }

    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>> {
        Ok(Box::new(Pending(self.clone(), key.to_owned(), Vec::new())))
    }

    fn open(&self, key: &str) -> io::Result<Arc<dyn Object>> {
        let found = self.objects().get(key).cloned();
        Ok(Arc::new(Bytes(found.ok_or(io::ErrorKind::NotFound)?)))
    }

    fn sizes(&self, keys: &[String]) -> io::Result<Vec<Option<u64>>> {
        let objects = self.objects();
        Ok(keys.iter().map(|key| objects.get(key).map(|o| o.len() as u64)).collect())
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let objects = self.objects();
        let within = objects.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(within.map(|(key, o)| Listed { key: key.clone(), len: o.len() as u64 }).collect())
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.objects().remove(key);
        Ok(())
    }

    fn claim(&self, _: &str, _: &[u8]) -> io::Result<Box<dyn Claim>> {
        Ok(Box::new(NoClaim))
    }

    fn claims(&self) -> io::Result<Vec<Claimed>> {
        Ok(Vec::new())
    }

    fn bury(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn readers(&self) -> usize {
        1
    }
}

impl Object for Bytes {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = start.checked_add(buf.len()).and_then(|end| self.0.get(start..end));
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Upload for Pending {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.2.extend_from_slice(bytes);
        Ok(())
    }

    fn commit(self: Box<Self>) -> io::Result<()> {
        let Self(memory, key, bytes) = *self;
        memory.objects().insert(key, Arc::new(bytes));
        Ok(())
    }
}

impl Claim for NoClaim {
    fn confirm(&self) -> io::Result<()> {
        Ok(())
    }

    fn release(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}
