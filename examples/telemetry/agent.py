"""An agent that traces, counts and logs with the OpenTelemetry SDK, and knows nothing of where that goes."""

import json
import logging
import sys

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

# The agent may say what it likes about itself; on who it is the plane's word counts.
resource = Resource.create({"team": "claims", "cogward.run.id": "somebody-else"})

tracing = TracerProvider(resource=resource)
tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(tracing)

metering = MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter())])
metrics.set_meter_provider(metering)

logs = LoggerProvider(resource=resource)
logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
logging.getLogger("clerk").addHandler(LoggingHandler(logger_provider=logs))

claims = json.loads(sys.stdin.read() or "[]")
counter = metrics.get_meter("clerk").create_counter("claims")
with trace.get_tracer("clerk").start_as_current_span("decide"):
    for claim in claims:
        with trace.get_tracer("clerk").start_as_current_span("claim", attributes={"claim": claim}):
            counter.add(1)
            logging.getLogger("clerk").warning("claim %s looked at", claim)

for provider in (tracing, metering, logs):
    provider.force_flush()
    provider.shutdown()
print(json.dumps({"claims": len(claims)}))
