//! What a call rests on: the approved definition that it was examined against, of the server as it was then.
//!
//! A call may wait: for the run to go on, for a slot, for a person, for a place at its server. Whatever became of the
//! definition meanwhile is looked at before the call is decided, and once more before it is forwarded.

use std::sync::Arc;

use cogward_model::{
    Digest, UpstreamName,
    decision::{Refusal, RefusalCode},
    pin_name::PinName,
};

use super::{listing, upstream::ToolServerClient};
use crate::{Inner, gate::Renewal, run::RunContext};

/// One definition, as it was when the call was examined.
#[derive(Clone)]
pub(super) struct Rests {
    inner: Arc<Inner>,
    client: Arc<ToolServerClient>,
    server: UpstreamName,
    what: PinName,
    /// The list that it was found in.
    seen: Digest,
    /// The definition.
    pin: Digest,
}

impl Rests {
    pub(super) fn on(
        inner: &Arc<Inner>,
        client: &Arc<ToolServerClient>,
        server: &UpstreamName,
        what: PinName,
        seen: Digest,
        pin: Digest,
    ) -> Self {
        Self { inner: Arc::clone(inner), client: Arc::clone(client), server: server.clone(), what, seen, pin }
    }

    pub(super) fn server(&self) -> &UpstreamName {
        &self.server
    }

    pub(super) fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.inner)
    }

    /// Whether it certainly is as it was, without asking anybody.
    pub(super) fn hold(&self, run: &RunContext) -> bool {
        let same = self.inner.server_of(run, &self.server).is_some_and(|client| Arc::ptr_eq(&client, &self.client));
        let tenant = &run.grant.tenant;
        same && match &self.what {
            PinName::Tool(tool) => {
                self.client.current_tools() == Some(self.seen)
                    && self.inner.pins.get(tenant, &self.server).is_some_and(|pins| {
                        let pin = pins.served().get(tool).map(|definition| definition.digest);
                        pins.seen() == Some(self.seen) && pin == Some(self.pin)
                    })
            }
            PinName::Other(kind, key) => {
                self.client.current_list(*kind) == Some(self.seen)
                    && self.inner.pins.entries(tenant, &self.server, *kind).is_some_and(|pins| {
                        pins.seen() == Some(self.seen) && pins.get(key).map(|entry| entry.digest) == Some(self.pin)
                    })
            }
        }
    }

    /// The last look before it is forwarded: `None` when nothing has changed, otherwise what comes of asking.
    pub(super) fn stand<'a>(&'a self, run: &'a RunContext) -> Option<Renewal<'a>> {
        if self.hold(run) {
            return None;
        }
        Some(Box::pin(async move {
            let now = tokio::select! {
                () = run.cut_signal().cancelled() => return Err(listing::cut()),
                now = self.now(run) => now?,
            };
            if now == Some(self.pin) { Ok(()) } else { Err(self.changed()) }
        }))
    }

    /// The definition that is served now.
    async fn now(&self, run: &RunContext) -> Result<Option<Digest>, Refusal> {
        let tenant = &run.grant.tenant;
        let Some(client) = self.inner.server_of(run, &self.server).filter(|now| Arc::ptr_eq(now, &self.client)) else {
            return Ok(None);
        };
        match &self.what {
            PinName::Tool(tool) => {
                let pins = self.inner.pinned(tenant, &self.server, &client).await.map_err(|error| error.refusal())?;
                Ok(pins.served().get(tool).map(|definition| definition.digest))
            }
            PinName::Other(kind, key) => {
                let pins = self.inner.pinned_entries(tenant, &self.server, *kind, &client).await;
                Ok(pins.map_err(|error| error.refusal())?.get(key).map(|entry| entry.digest))
            }
        }
    }

    fn changed(&self) -> Refusal {
        let what = super::rpc::shown(&self.what.to_string(), 256);
        let detail = format!(
            "the definition of `{}/{what}` is not the one any more that the call was decided under",
            self.server
        );
        let next = "It was not forwarded. Make the call again, and it is decided anew";
        Refusal::new(RefusalCode::Quarantined, "tool.pin", detail, next)
    }
}
