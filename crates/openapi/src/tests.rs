//! Documents as they are, and as an attacker would write them.

mod attacks;
mod properties;

use serde_json::{Value, json};

use crate::{ArgumentError, DocumentError, Import, Operation, Selection, read};

const INVOICES: &str = include_str!("../../../tests/fixtures/openapi/invoices.yaml");

fn import(document: &Value) -> Result<Import, DocumentError> {
    read(document.to_string().as_bytes(), &Selection::default())
}

/// A document with these paths.
fn with_paths(paths: Value) -> Value {
    json!({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": paths})
}

/// The one operation of a document with one path.
fn one(path: &str, item: Value) -> Operation {
    let mut import = import(&with_paths(json!({ path: item }))).unwrap();
    assert_eq!(import.left_out, [], "{path}");
    assert_eq!(import.operations.len(), 1);
    import.operations.pop().unwrap()
}

/// Why the one operation of a document is left out.
fn why(document: &Value) -> String {
    let import = import(document).unwrap();
    assert_eq!(import.operations, [], "nothing is offered");
    import.left_out.into_iter().map(|left| format!("{}: {}", left.what, left.why)).collect::<Vec<_>>().join("\n")
}

fn named<'i>(import: &'i Import, name: &str) -> &'i Operation {
    import.operations.iter().find(|operation| operation.name.as_str() == name).unwrap()
}

fn definition(operation: &Operation) -> Value {
    serde_json::from_str(operation.definition()).unwrap()
}

fn target(operation: &Operation, arguments: Value) -> Result<String, ArgumentError> {
    operation.plan_request(&arguments.to_string()).map(|planned| planned.target)
}

#[test]
fn a_document_becomes_tools_and_what_does_not_is_said() {
    let import = read(INVOICES.as_bytes(), &Selection::default()).unwrap();
    assert_eq!((import.title.as_str(), import.version.as_str()), ("Invoices", "2.4"));
    assert_eq!(import.server.as_deref(), Some("https://api.invoices.example/v2"));
    assert_eq!(import.credentials, ["key: a key in the header `X-Api-Key`"]);
    let names: Vec<_> = import.operations.iter().map(|operation| operation.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "createInvoice",
            "deleteInvoice",
            "getCustomer",
            "getInvoice",
            "get_invoices_id_document",
            "listInvoices",
            "payInvoice",
            "replaceInvoice",
            "searchCustomers"
        ]
    );
    let left: Vec<_> = import.left_out.iter().map(|left| (left.what.as_str(), left.why.as_str())).collect();
    assert_eq!(
        left,
        [
            ("webhooks", "the server calls them, not an agent"),
            ("GET /customers/export", "it is deprecated, and those are not asked for"),
            ("GET /invoices, parameter `session`", "cookies are not sent"),
            ("PUT /invoices/{id}/document", "its body is none of JSON, fields of a form, and text"),
        ]
    );
}

#[test]
fn a_definition_says_what_can_be_given_and_what_is_sent() {
    let import = read(INVOICES.as_bytes(), &Selection::default()).unwrap();
    let pay = definition(named(&import, "payInvoice"));
    assert_eq!(pay["title"], "Pay an invoice, or a part of it");
    let input = &pay["inputSchema"];
    assert_eq!(input["type"], "object");
    assert_eq!(input["additionalProperties"], false);
    assert_eq!(input["required"], json!(["id", "body"]));
    assert_eq!(input["properties"]["body"]["properties"]["amount_cents"], json!({"type": "integer", "minimum": 1}));
    assert_eq!(input["properties"]["Idempotency-Key"]["maxLength"], 64);
    assert_eq!(pay["outputSchema"]["required"], json!(["left_cents"]));
    assert_eq!(pay["annotations"]["readOnlyHint"], false);
    assert_eq!(
        pay["_meta"]["cogward/request"],
        "POST /invoices/{id}/payments; \"Idempotency-Key\" is \"Idempotency-Key\" in header, simple; \"id\" is \"id\" in path, \
         simple; body application/json"
    );
    let list = definition(named(&import, "listInvoices"));
    assert_eq!(list["description"], "List invoices\n\nThe newest first.");
    assert_eq!(list["annotations"]["readOnlyHint"], true);
    assert_eq!(list["inputSchema"]["properties"]["status"]["items"], json!({"$ref": "#/$defs/Status"}));
    assert!(list["inputSchema"]["properties"].get("session").is_none());
    assert!(list["inputSchema"]["properties"].get("X-Trace").is_some(), "a parameter of the whole path");
    // What the server gives is not asked for, and a type may contain itself.
    let create = definition(named(&import, "createInvoice"));
    let invoice = &create["inputSchema"]["$defs"]["Invoice"];
    assert_eq!(invoice["required"], json!(["customer", "lines"]));
    assert_eq!(invoice["properties"]["id"], false, "read only: it cannot be sent");
    assert!(create["outputSchema"]["properties"].get("id").is_some());
    assert_eq!(create["inputSchema"]["$defs"]["Customer"]["properties"]["parent"]["$ref"], "#/$defs/Customer");
    // Two ways to go well: no one form is promised.
    assert!(definition(named(&import, "replaceInvoice")).get("outputSchema").is_none());
    assert!(definition(named(&import, "searchCustomers")).get("outputSchema").is_none());
}

#[test]
fn arguments_become_a_request() {
    let import = read(INVOICES.as_bytes(), &Selection::default()).unwrap();
    let list = named(&import, "listInvoices");
    let asked = json!({"status": ["open", "paid"], "limit": 5, "filter": {"customer": "a&b=c", "due_before": "2026-12-01"}, "X-Trace": "t 1"});
    let planned = list.plan_request(&asked.to_string()).unwrap();
    assert_eq!(planned.method, "GET");
    assert_eq!(
        planned.target,
        "/invoices?filter%5Bcustomer%5D=a%26b%3Dc&filter%5Bdue_before%5D=2026-12-01&limit=5&status=open&status=paid"
    );
    assert_eq!(planned.headers, [("X-Trace".to_owned(), "t 1".to_owned())]);
    assert_eq!(target(list, json!({})).unwrap(), "/invoices");
    assert_eq!(target(list, json!({"limit": null, "status": []})).unwrap(), "/invoices");
    let pay = named(&import, "payInvoice");
    let raw = r#"{"id": "2026 04/é".., "body": {}}"#;
    assert!(pay.plan_request(raw).is_err(), "no JSON");
    let planned = pay.plan_request(r#"{"body": {"amount_cents":  1250.00, "memo":"\u0041"}, "id": "2026 é"}"#).unwrap();
    assert_eq!(planned.target, "/invoices/2026%20%C3%A9/payments");
    let body = planned.body.unwrap();
    assert_eq!(body.media, "application/json");
    assert_eq!(body.bytes, br#"{"amount_cents":  1250.00, "memo":"\u0041"}"#, "what was judged, byte for byte");
    assert_eq!(target(pay, json!({"id": "1"})), Err(ArgumentError::Missing("body".into())));
    assert_eq!(target(pay, json!({"body": {}})), Err(ArgumentError::Missing("id".into())));
    assert_eq!(target(pay, json!({"id": "1", "body": {}, "more": 1})), Err(ArgumentError::Unknown));
    let search = named(&import, "searchCustomers");
    let planned = search.plan_request(r#"{"body": {"name": "Ä & Söhne", "countries": ["de", "at"]}}"#).unwrap();
    let fields = String::from_utf8(planned.body.unwrap().bytes).unwrap();
    assert_eq!(fields, "countries=de&countries=at&name=%C3%84%20%26%20S%C3%B6hne");
}

#[test]
fn styles_are_written_as_they_are_defined() {
    let query = |style: Value| {
        let mut parameter = json!({"name": "p", "in": "query", "schema": {}});
        parameter.as_object_mut().unwrap().extend(style.as_object().unwrap().clone());
        one("/a", json!({"get": {"parameters": [parameter]}}))
    };
    let list = json!({"p": ["a b", "c,d", 1.50, true]});
    assert_eq!(target(&query(json!({})), list.clone()).unwrap(), "/a?p=a%20b&p=c%2Cd&p=1.5&p=true");
    assert_eq!(target(&query(json!({"explode": false})), list).unwrap(), "/a?p=a%20b,c%2Cd,1.5,true");
    let object = json!({"p": {"x": 1, "y": "z"}});
    assert_eq!(target(&query(json!({"explode": false})), object.clone()).unwrap(), "/a?p=x,1,y,z");
    assert!(target(&query(json!({})), object.clone()).is_err(), "members would be parameters of their own");
    assert_eq!(target(&query(json!({"style": "deepObject"})), object.clone()).unwrap(), "/a?p%5Bx%5D=1&p%5By%5D=z");
    let json_content = json!({"name": "p", "in": "query", "content": {"application/json": {"schema": {}}}});
    let operation = one("/a", json!({"get": {"parameters": [json_content]}}));
    assert_eq!(target(&operation, json!({"p": {"x": [1]}})).unwrap(), "/a?p=%7B%22x%22%3A%5B1%5D%7D");
    for (explode, wanted) in [(false, "/a/x,1,y,z"), (true, "/a/x=1,y=z")] {
        let place = json!({"name": "p", "in": "path", "required": true, "explode": explode, "schema": {}});
        let operation = one("/a/{p}", json!({"get": {"parameters": [place]}}));
        assert_eq!(target(&operation, object.clone()).unwrap(), wanted);
        assert_eq!(target(&operation, json!({"p": [1, "b"]})).unwrap(), "/a/1,b");
    }
}

#[test]
fn operations_are_chosen_by_id_and_tag() {
    let names = |include: &[&str], exclude: &[&str], deprecated| {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let selection = Selection { include: own(include), exclude: own(exclude), deprecated, ..Selection::default() };
        let import = read(INVOICES.as_bytes(), &selection)?;
        Ok(import.operations.iter().map(|operation| operation.name.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(names(&["customers"], &["searchCustomers"], true).unwrap(), ["exportCustomers", "getCustomer"]);
    assert_eq!(names(&["get_invoices_id_document"], &[], false).unwrap(), ["get_invoices_id_document"]);
    assert_eq!(names(&["nobody"], &[], false), Err(DocumentError::NotThere("nobody".into())));
    assert_eq!(names(&[], &["nobody"], false), Err(DocumentError::NotThere("nobody".into())));
}

#[test]
fn what_openapi_3_0_says_its_own_way_is_read() {
    let document = json!({"openapi": "3.0.3", "info": {}, "paths": {"/a": {"post": {"operationId": "a", "requestBody": {"content": {
        "application/json": {"schema": {"type": "object", "properties": {
            "n": {"type": "integer", "minimum": 1, "exclusiveMinimum": true, "nullable": true},
            "m": {"type": "integer", "maximum": 9, "exclusiveMaximum": false},
            "e": {"type": "string", "enum": ["x"], "nullable": true, "example": "x", "x-more": 1},
            "r": {"allOf": [{"$ref": "#/components/schemas/R"}], "nullable": true},
        }}}}}}}}, "components": {"schemas": {"R": {"type": "string"}}}});
    let import = import(&document).unwrap();
    let body = &definition(&import.operations[0])["inputSchema"]["properties"]["body"]["properties"];
    assert_eq!(body["n"], json!({"type": ["integer", "null"], "exclusiveMinimum": 1}));
    assert_eq!(body["m"], json!({"type": "integer", "maximum": 9}));
    assert_eq!(body["e"], json!({"type": ["string", "null"], "enum": ["x", null]}));
    assert_eq!(body["r"], json!({"anyOf": [{"allOf": [{"$ref": "#/$defs/R"}]}, {"type": "null"}]}));
}
