//! Documents and arguments that want a request to go elsewhere, to say more, or to cost too much.

use super::*;

fn item(name: &str) -> Operation {
    let place = json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    one(&format!("/items/{{{name}}}/show"), json!({"get": {"parameters": [place]}}))
}

#[test]
fn what_a_document_repeats_costs_no_more_than_its_bound() {
    // As many references of one last name as there is room for, none of which leads anywhere.
    let parts: Vec<_> = (0..4_000).map(|n| json!({ "$ref": format!("#/a{n}/x") })).collect();
    let answer = json!({"200": {"description": "", "content": {"application/json": {"schema": {
        "$ref": "#/components/schemas/Big"}}}}});
    let paths: serde_json::Map<_, _> =
        (0..10).map(|n| (format!("/p{n}"), json!({"get": {"responses": answer}}))).collect();
    let mut document = with_paths(paths.into());
    document["components"] = json!({"schemas": {"Big": {"type": "object", "allOf": parts}}});
    let found = import(&document).unwrap();
    assert!(found.operations.iter().all(|operation| operation.output().is_none()));
    // The same where they lead somewhere: each has a name of its own, and the whole document has a bound.
    let targets: serde_json::Map<_, _> =
        (0..4_000).map(|n| (format!("a{n}"), json!({"x": {"type": "string"}}))).collect();
    document.as_object_mut().unwrap().extend(targets);
    let found = import(&document).unwrap();
    assert!(found.operations.len() == 10, "{:?}", found.left_out);
    // A long list, asked for by every operation.
    let paths: serde_json::Map<_, _> =
        (0..60).map(|n| (format!("/p{n}"), json!({"get": {"responses": answer}}))).collect();
    document["paths"] = paths.into();
    let values: Vec<_> = (0..50_000).collect();
    document["components"] = json!({"schemas": {"Big": {"type": "object", "enum": values}}});
    let refused = import(&document).map(|found| found.operations.len());
    assert!(matches!(&refused, Err(DocumentError::TooLarge(why)) if why.contains("steps")), "{refused:?}");
}

#[test]
fn what_is_read_only_cannot_be_sent() {
    let role = json!({"type": "string", "readOnly": true, "enum": ["user"]});
    let body = json!({"type": "object", "required": ["role", "name"],
        "properties": {"role": role, "name": {"type": "string"}}});
    let post = json!({"requestBody": {"content": {"application/json": {"schema": body}}}});
    let schema = definition(&one("/users", json!({ "post": post })))["inputSchema"]["properties"]["body"].clone();
    assert_eq!(schema["properties"]["role"], false);
    assert_eq!(schema["required"], json!(["name"]));
}

#[test]
fn nothing_that_a_server_may_read_as_the_credentials_parameter_is_an_argument() {
    let of = |name: &str, style: &str| {
        let parameter = json!({"name": name, "in": "query", "style": style, "explode": style == "deepObject",
            "schema": {"type": if style == "form" { "string" } else { "object" }}});
        let document = with_paths(json!({"/x": {"get": {"parameters": [parameter]}}}));
        let selection = Selection { credential_query: vec!["auth[key]".to_owned()], ..Selection::default() };
        let found = read(document.to_string().as_bytes(), &selection).unwrap();
        found.left_out.iter().any(|left| left.why.contains("the credential is sent there"))
    };
    for (name, style) in [("auth[key]", "form"), ("Auth.Key", "form"), ("auth_key", "form"), ("AUTH", "deepObject")] {
        assert!(of(name, style), "{name}");
    }
    assert!(!of("author", "deepObject") && !of("key", "form"));
}

#[test]
fn a_value_does_not_leave_its_part_of_the_path() {
    let item = item("id");
    for bad in [
        "",
        ".",
        "..",
        "../admin",
        "a/b",
        "/etc/passwd",
        "..\\admin",
        "%2e%2e",
        "%2E.",
        "%252e%252e",
        "..;x",
        ".;x=y",
        "a%2fb",
        "a%2Fb",
        "a%252fb",
        "a%25252fb",
        "%5c",
        "a\r\nHost: evil",
        "a%0d%0ab",
        "a\0b",
        "a%00b",
        "%25252525252525252f",
        "1?x=",
        "1%3Fx=",
        "a#b",
        "a%2523b",
        "a;v=2",
        "a\u{ff0f}b",
        "a\u{2100}b",
        "a%c0%afb",
        "%ff",
        "\u{ff0e}\u{ff0e}",
        "\u{2025}",
        ".. ",
        " ..",
        "%2e%2e%20",
    ] {
        assert!(matches!(target(&item, json!({ "id": bad })), Err(ArgumentError::Wrong { .. })), "{bad:?}");
    }
    for (good, wanted) in [
        ("a&b=c", "/items/a%26b%3Dc/show"),
        ("http://evil.example"[..4].into(), "/items/http/show"),
        ("a b%", "/items/a%20b%25/show"),
        ("...", "/items/.../show"),
        ("@evil.example:80", "/items/%40evil.example%3A80/show"),
        ("ｅ．．", "/items/%EF%BD%85%EF%BC%8E%EF%BC%8E/show"),
    ] {
        assert_eq!(target(&item, json!({ "id": good })).unwrap(), wanted);
    }
    assert!(target(&item, json!({"id": []})).is_err());
    assert!(target(&item, json!({"id": ["a", "b/../c"]})).is_err());
    assert!(target(&item, json!({"id": {"a/b": 1}})).is_err());
    assert!(target(&item, json!({"id": null})).is_err());
    // Each harmless, together not.
    let places = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {}});
    let two = one("/a/{x}{y}/b", json!({"get": {"parameters": [places("x"), places("y")]}}));
    assert!(target(&two, json!({"x": ".", "y": "."})).is_err());
    assert!(target(&two, json!({"x": "%2", "y": "e."})).is_err());
}

#[test]
fn a_value_adds_no_parameter_and_no_header() {
    let parameters = json!([
        {"name": "q", "in": "query", "schema": {}},
        {"name": "f", "in": "query", "style": "deepObject", "schema": {}},
        {"name": "X-Note", "in": "header", "schema": {}},
    ]);
    let operation = one("/a", json!({"get": {"parameters": parameters}}));
    assert_eq!(
        target(&operation, json!({"q": "x&admin=1#y\r\nHost: e"})).unwrap(),
        "/a?q=x%26admin%3D1%23y%0D%0AHost%3A%20e"
    );
    for bad in [json!({"q": "\0"}), json!({"f": {"a]&b[": 1}}), json!({"f": {"": 1}}), json!({"f": {"a": {"b": 1}}})] {
        assert!(target(&operation, bad.clone()).is_err(), "{bad}");
    }
    for bad in ["a\r\nX-Evil: 1", "a\nb", "a\0b", " a", "a ", "ä", "a\u{7f}", "a\tb"] {
        assert!(target(&operation, json!({ "X-Note": bad })).is_err(), "{bad:?}");
    }
    assert!(target(&operation, json!({"X-Note": ["a,b"]})).is_err());
    assert_eq!(target(&operation, json!({"q": "a".repeat(20_000)})), Err(ArgumentError::TooLong));
}

#[test]
fn headers_that_are_the_planes_own_are_not_an_agents() {
    for name in [
        "Host",
        "authorization",
        "AUTHORIZATION",
        "Cookie",
        "Content-Length",
        "Transfer-Encoding",
        "X-Forwarded-For",
        "x-http-method-override",
        "Proxy-Authorization",
    ] {
        let parameter = |required: bool| json!({"name": name, "in": "header", "required": required, "schema": {}});
        let document = |required| with_paths(json!({"/a": {"get": {"parameters": [parameter(required)]}}}));
        let import = import(&document(false)).unwrap();
        assert_eq!(import.operations.len(), 1);
        assert!(definition(&import.operations[0])["inputSchema"]["properties"].as_object().unwrap().is_empty());
        assert_eq!(import.left_out[0].why, "this header is the plane's own");
        assert!(why(&document(true)).contains("is required and cannot be sent"));
    }
    assert!(
        why(&with_paths(
            json!({"/a": {"get": {"parameters": [{"name": "a\r\nb", "in": "header", "required": true, "schema": {}}]}}})
        ))
        .contains("header")
    );
    let selection = Selection {
        credential_headers: vec!["X-Api-Key".into()],
        credential_query: vec!["key".into()],
        ..Selection::default()
    };
    let parameters =
        json!([{"name": "x-api-key", "in": "header", "schema": {}}, {"name": "key", "in": "query", "schema": {}}]);
    let document = with_paths(json!({"/a": {"get": {"parameters": parameters}}}));
    let import = read(document.to_string().as_bytes(), &selection).unwrap();
    assert_eq!(import.left_out.len(), 2);
    assert!(import.left_out.iter().all(|left| left.why == "the credential is sent there"));
}

#[test]
fn no_document_says_where_requests_go() {
    for path in ["//evil.example/a", "https://evil.example/a", "/../admin", "/a/%2e%2e/b", "/a?x=1", "/a#b", "\\evil"] {
        assert!(why(&with_paths(json!({ path: {"get": {}} }))).contains("its path"), "{path}");
    }
    let evil = json!([{"url": "https://evil.example"}]);
    assert!(why(&with_paths(json!({"/a": {"get": {"servers": evil}}}))).contains("servers of its own"));
    assert!(why(&with_paths(json!({"/a": {"servers": evil, "get": {}}}))).contains("servers of its own"));
    let mut document = with_paths(json!({"/a": {"get": {}}}));
    document["servers"] = json!([{"url": "https://{host}/v1", "variables": {"host": {"default": "evil.example"}}}, {"url": "http://plain.example"}, {"url": "/v1"}]);
    assert_eq!(import(&document).unwrap().server, None);
}

#[test]
fn references_stay_inside_and_lead_somewhere() {
    for reference in
        ["file:///etc/passwd", "http://evil.example/x.json", "other.yaml#/a", "//evil", "#anchor", "#/nowhere", ""]
    {
        let schema = json!({"name": "a", "in": "query", "required": true, "schema": {"$ref": reference}});
        let said = why(&with_paths(json!({"/a": {"get": {"parameters": [schema]}}})));
        assert!(said.starts_with("GET /a: ") && said.contains("reference"), "{reference}: {said}");
        if !reference.is_empty() {
            assert!(
                why(&with_paths(json!({"/a": {"get": {"parameters": [{"$ref": reference}]}}}))).contains("reference")
            );
            assert!(
                why(&with_paths(json!({"/a": {"post": {"requestBody": {"$ref": reference}}}}))).contains("reference")
            );
            assert!(why(&with_paths(json!({"/a": {"$ref": reference}}))).contains("reference"));
        }
    }
}

#[test]
fn circles_are_found_and_named() {
    let mut document = with_paths(
        json!({"/a": {"post": {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}}}}}),
    );
    document["components"] =
        json!({"schemas": {"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": "#/components/schemas/A"}}});
    assert!(why(&document).contains("`#/components/schemas/B` leads in a circle"), "{}", why(&document));
    let mut document = with_paths(json!({"/a": {"$ref": "#/components/pathItems/A"}, "/b": {"$ref": "#/paths/~1b"}}));
    document["components"] = json!({"pathItems": {"A": {"$ref": "#/components/pathItems/A"}}});
    assert_eq!(import(&document).unwrap().left_out.len(), 2);
}

/// Each type refers twice to the next: written out it would be more than a billion.
#[test]
fn what_refers_a_billion_times_stays_small() {
    let schema = |n: usize| {
        let next = json!({"$ref": format!("#/components/schemas/S{}", n + 1)});
        json!({"type": "object", "properties": {"l": next, "r": next}})
    };
    let mut schemas: serde_json::Map<String, Value> = (0..64).map(|n| (format!("S{n}"), schema(n))).collect();
    schemas.insert("S64".to_owned(), json!({"type": "string"}));
    let mut document = with_paths(
        json!({"/a": {"post": {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/S0"}}}}}}}),
    );
    document["components"] = json!({"schemas": schemas});
    let import = import(&document).unwrap();
    assert!(import.operations[0].definition().len() < 20_000);
}

#[test]
fn large_documents_are_bounded() {
    let paths: serde_json::Map<String, Value> = (0..1_001).map(|n| (format!("/p{n}"), json!({"get": {}}))).collect();
    assert!(matches!(import(&with_paths(paths.into())), Err(DocumentError::TooLarge(_))));
    let parameters: Vec<_> = (0..200).map(|n| json!({"name": format!("p{n}"), "in": "query", "schema": {}})).collect();
    assert!(why(&with_paths(json!({"/a": {"get": {"parameters": parameters}}}))).contains("128 parameters"));
    let text = "x".repeat(300_000);
    assert!(why(&with_paths(json!({"/a": {"get": {"description": text}}}))).contains("longer than"));
    let wide: Vec<_> = (0..5_000).map(|_| json!({"type": "string"})).collect();
    let parameter = json!({"name": "a", "in": "query", "required": true, "schema": {"anyOf": wide}});
    assert!(why(&with_paths(json!({"/a": {"get": {"parameters": [parameter]}}}))).contains("4096 schemas"));
}

#[test]
fn one_name_is_one_operation() {
    let twice = with_paths(json!({"/a": {"get": {"operationId": "x"}}, "/b": {"delete": {"operationId": "x"}}}));
    assert_eq!(why(&twice).matches("more than once").count(), 2);
    // Two that look alike once they are names.
    let alike = with_paths(
        json!({"/a": {"get": {"operationId": "read x"}}, "/b": {"delete": {"operationId": "read\u{200b}x"}}}),
    );
    assert_eq!(why(&alike).matches("`read_x`").count(), 2);
    assert!(!why(&alike).contains('\u{200b}'));
    // Choosing one of two does not hide that there are two.
    let selection = Selection { include: vec!["t".into()], ..Selection::default() };
    let tagged =
        with_paths(json!({"/a": {"get": {"operationId": "x", "tags": ["t"]}}, "/b": {"delete": {"operationId": "x"}}}));
    assert_eq!(read(tagged.to_string().as_bytes(), &selection).unwrap().operations, []);
}

#[test]
fn what_is_no_document_is_refused() {
    for bad in [
        json!({"swagger": "2.0", "paths": {}}),
        json!({"openapi": "4.0.0", "paths": {}}),
        json!({"openapi": "3.1.0"}),
        json!({"openapi": "3.1.0", "paths": []}),
        json!({"openapi": "3.1.0", "paths": {"/a": 7}}),
        json!({"openapi": "3.1.0", "paths": {}, "jsonSchemaDialect": "https://evil.example/dialect"}),
        json!({}),
    ] {
        assert!(import(&bad).is_err(), "{bad}");
    }
    for (bad, cause) in [
        (json!({"get": 7}), "no object"),
        (json!({"get": {"parameters": 7}}), "no list"),
        (json!({"get": {"parameters": [7]}}), "no name"),
        (
            json!({"get": {"parameters": [{"name": "a", "in": "query", "schema": {}}, {"name": "a", "in": "query", "schema": {}}]}}),
            "twice",
        ),
        (json!({"get": {"parameters": [{"name": "a", "in": "path", "schema": {}}]}}), "no place"),
        (
            json!({"get": {"parameters": [{"name": "a", "in": "query", "required": true, "style": "pipeDelimited", "schema": {}}]}}),
            "style",
        ),
        (
            json!({"get": {"parameters": [{"name": "a", "in": "query", "required": true, "schema": {"type": "object"}}]}}),
            "parameters of their own",
        ),
        (json!({"trace": {}}), "method"),
        (json!({"get": {"requestBody": {"required": true, "content": {"application/json": {}}}}}), "no body"),
        (json!({"post": {"requestBody": {"required": true, "content": {"multipart/form-data": {}}}}}), "none of JSON"),
        (
            json!({"post": {"requestBody": {"content": {"application/json": {"schema": {"$dynamicRef": "#x"}}}}}}),
            "$dynamicRef",
        ),
        (json!({"post": {"requestBody": {"content": {"application/json": {"schema": 7}}}}}), "neither"),
    ] {
        let said = why(&with_paths(json!({ "/a": bad })));
        assert!(said.contains(cause), "{cause}: {said}");
    }
    assert!(why(&with_paths(json!({"/a/{b}": {"get": {}}}))).contains("nothing says what `{b}`"));
}

/// The words of a definition stay, and what is sent changes: that must be seen.
#[test]
fn another_request_is_another_definition() {
    let with = |path: &str, method: &str, wire: &str| {
        let parameter = json!({"name": wire, "in": "query", "schema": {}});
        let other = json!({ method: {"operationId": "x", "description": "d", "parameters": [parameter]} });
        one(path, other).definition().to_owned()
    };
    let all = [with("/a", "get", "a_b"), with("/b", "get", "a_b"), with("/a", "head", "a_b"), with("/a", "get", "a b")];
    for (place, one) in all.iter().enumerate() {
        assert!(all.iter().skip(place + 1).all(|other| other != one));
    }
}
