//! Trusted issuers.

use cogward_api::Issuer;
use cogward_model::outside::IssuerKeys;

use super::{Show, time};
use crate::output::Cell;

impl Show for Issuer {
    const PLURAL: &'static str = "issuers";
    const HEAD: &'static [&'static str] = &["NAME", "TENANT", "ISSUER", "KEYS", "BEARER", "UPDATED"];
    fn row(&self) -> Vec<Cell> {
        let keys = match &self.keys {
            IssuerKeys::Given { .. } => "given",
            IssuerKeys::Url { url } => url.as_str(),
        };
        vec![
            Cell::from(&self.name),
            Cell::from(&self.tenant),
            self.issuer.as_str().into(),
            keys.into(),
            if self.bearer_in_development { "in development" } else { "refused" }.into(),
            time(self.updated),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}
