//! Names of images: what people call an image, and the digest that this means on this machine.
//!
//! The store takes a name as it comes; whoever gives it decides what it may look like.

use std::collections::BTreeMap;

use oci::Digest;

use super::layout::failed;
use super::{ImageError, Inner, State};
use crate::durable;

impl Inner {
    /// Reads the names; one of an image that is not there any more is left out.
    pub(super) fn load_names(&self, state: &State) -> Result<BTreeMap<String, Digest>, ImageError> {
        let path = self.layout.names();
        let Some(content) = durable::read(&path).map_err(failed("read", &path))? else {
            return Ok(BTreeMap::new());
        };
        let mut names: BTreeMap<String, Digest> =
            serde_json::from_slice(&content).map_err(|error| failed("read", &path)(error.into()))?;
        names.retain(|name, digest| {
            let is_here = state.images.contains_key(digest);
            if !is_here {
                tracing::warn!(name, %digest, "forgetting the name of an image that is not here");
            }
            is_here
        });
        Ok(names)
    }

    pub(super) fn name(&self, name: String, digest: Digest) -> Result<(), ImageError> {
        let mut state = self.lock();
        if !state.images.contains_key(&digest) {
            return Err(ImageError::Missing { digest });
        }
        let mut names = state.names.clone();
        names.insert(name, digest);
        self.replace_names(&mut state, names)
    }

    pub(super) fn unname(&self, gone: &[String]) -> Result<(), ImageError> {
        let mut state = self.lock();
        let mut names = state.names.clone();
        names.retain(|name, _| !gone.contains(name));
        self.replace_names(&mut state, names)
    }

    /// On disk first.
    fn replace_names(&self, state: &mut State, names: BTreeMap<String, Digest>) -> Result<(), ImageError> {
        let path = self.layout.names();
        serde_json::to_vec_pretty(&names)
            .map_err(std::io::Error::from)
            .and_then(|content| durable::replace(&path, &content))
            .map_err(failed("replace", &path))?;
        state.names = names;
        Ok(())
    }
}
