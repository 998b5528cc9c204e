//! Tokens from an authorisation server that does what it is told to do wrong.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::Response;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::*;

/// What the fake says, and what it was asked.
#[derive(Default)]
struct Fake {
    resource: Value,
    issuer: Value,
    token: Value,
    asked: AtomicUsize,
    forms: Mutex<Vec<(String, String)>>,
}

async fn serve(build: impl FnOnce(&str) -> Fake) -> (String, Arc<Fake>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let fake = Arc::new(build(&origin));
    let serving = Arc::clone(&fake);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let fake = Arc::clone(&serving);
            let service = service_fn(move |request| answer(Arc::clone(&fake), request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (origin, fake)
}

async fn answer(fake: Arc<Fake>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let value = match head.uri.path() {
        "/.well-known/oauth-protected-resource/mcp" => fake.resource.clone(),
        "/.well-known/oauth-authorization-server" => fake.issuer.clone(),
        "/token" => {
            fake.asked.fetch_add(1, Ordering::SeqCst);
            let by = head.headers.get("authorization").map_or("", |value| value.to_str().unwrap()).to_owned();
            fake.forms.lock().unwrap().push((by, body));
            tokio::task::yield_now().await;
            fake.token.clone()
        }
        _ => Value::Null,
    };
    let status = if value.is_null() || value.get("error").is_some() { 400 } else { 200 };
    Ok(Response::builder().status(status).body(Full::from(value.to_string())).unwrap())
}

fn good(origin: &str) -> Fake {
    Fake {
        resource: json!({"resource": format!("{origin}/mcp"), "authorization_servers": [origin]}),
        issuer: json!({"issuer": origin, "token_endpoint": format!("{origin}/token")}),
        token: json!({"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600}),
        ..Fake::default()
    }
}

fn tokens(origin: &str, config: Value, secret: &str) -> Result<Arc<Tokens>, String> {
    let config: OAuthClient = serde_json::from_value(config).unwrap();
    Tokens::new(&format!("{origin}/mcp"), config, Credential::new(Zeroizing::new(secret.to_owned())))
}

fn server() -> UpstreamName {
    "s".parse().unwrap()
}

#[tokio::test]
async fn a_token_is_found_got_once_and_kept() {
    let (origin, fake) = serve(good).await;
    let tokens = tokens(&origin, json!({"client_id": "me", "scopes": ["a", "b"]}), "p&ss").unwrap();
    let name = server();
    let all = futures_util::future::join_all((0..8).map(|_| tokens.header(&name))).await;
    assert!(all.iter().all(|header| header.as_ref().unwrap() == "Bearer t0ken"));
    assert!(all.iter().all(|header| header.as_ref().unwrap().is_sensitive()));
    assert_eq!(fake.asked.load(Ordering::SeqCst), 1, "one asks, the others wait");
    let (by, form) = fake.forms.lock().unwrap()[0].clone();
    assert_eq!(by, format!("Basic {}", STANDARD.encode("me:p%26ss")));
    let resource = encoded(&format!("{origin}/mcp"));
    assert_eq!(form, format!("grant_type=client_credentials&resource={resource}&scope=a%20b"));
    assert!(tokens.forget() && !tokens.forget());
    tokens.header(&server()).await.unwrap();
    assert_eq!(fake.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn documents_that_lead_elsewhere_are_not_followed() {
    type Change = fn(&mut Fake, &str);
    let wrong: [(Change, &str); 6] = [
        (|fake, _| fake.resource["resource"] = json!("http://127.0.0.1:1/mcp"), "another resource"),
        (|fake, _| fake.resource["authorization_servers"] = json!([]), "no authorisation server"),
        (|fake, _| fake.resource["authorization_servers"] = json!(["http://169.254.169.254"]), "not https"),
        (|fake, _| fake.issuer["issuer"] = json!("http://127.0.0.1:1"), "says that it is another"),
        (|fake, _| fake.issuer["token_endpoint"] = json!("http://127.0.0.1:1/token"), "another origin"),
        (|fake, _| fake.resource = Value::Null, "resource metadata"),
    ];
    for (change, said) in wrong {
        let (origin, fake) = serve(|origin| {
            let mut fake = good(origin);
            change(&mut fake, origin);
            fake
        })
        .await;
        let error = tokens(&origin, json!({"client_id": "me"}), "s3cret").unwrap().header(&server()).await.unwrap_err();
        let error = error.to_string();
        assert!(error.contains(said) && !error.contains("s3cret"), "{error}");
        assert_eq!(fake.asked.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn what_is_no_bearer_token_is_not_used_and_a_refusal_repeats_nothing() {
    for (token, said) in [
        (json!({"access_token": "x", "token_type": "DPoP"}), "bearer"),
        (json!({"access_token": "", "token_type": "bearer"}), "bearer"),
        (json!({"access_token": "a\nb", "token_type": "bearer"}), "header"),
        (json!({"error": "invalid_client", "error_description": "s3cret is wrong"}), "invalid_client"),
        (json!([]), "no token"),
    ] {
        let (origin, _) = serve(|origin| Fake { token, ..good(origin) }).await;
        let error = tokens(&origin, json!({"client_id": "me"}), "s3cret").unwrap().header(&server()).await.unwrap_err();
        let error = error.to_string();
        assert!(error.contains(said) && !error.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn a_key_signs_who_asks() {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, KeyPair as _, UnparsedPublicKey};
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(pkcs8.as_ref()));
    let (origin, fake) = serve(good).await;
    let config = json!({"client_id": "me", "authentication": {"kind": "private_key_jwt", "key_id": "k1"}});
    tokens(&origin, config.clone(), &pem).unwrap().header(&server()).await.unwrap();
    let (by, form) = fake.forms.lock().unwrap()[0].clone();
    assert_eq!(by, "");
    let assertion = form.rsplit_once("client_assertion=").unwrap().1;
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref());
    public.verify(signed.as_bytes(), &signature).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!((&claims["aud"], &claims["iss"], &claims["sub"]), (&json!(origin), &json!("me"), &json!("me")));
    assert!(tokens(&origin, config, "no key").is_err());
}

#[test]
fn a_resource_covers_only_its_own_paths() {
    let server: Uri = "https://a.example/x/mcp".parse().unwrap();
    for (resource, covered) in [
        ("https://a.example/x/mcp", true),
        ("https://a.example/x", true),
        ("https://a.example", true),
        ("https://a.example/x/mc", false),
        ("https://a.example/x/mcp/y", false),
        ("https://b.example/x/mcp", false),
        ("http://a.example/x/mcp", false),
    ] {
        assert_eq!(covers(resource, &server), covered, "{resource}");
    }
}
