package mesh

import (
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// requestLog is a line of JSON a request. "peer" is the identity that the other
// side proved: the client's inbound, the server's outbound. "details" names the
// policy and the rule that denied, as "rbac_access_denied_matched_policy[...]".
// Inbound, "verdict" and "rule" are what DENY and ALLOW came to, "trial_..." what
// they would come to with the policies of a dry run in force, and "audit" is
// true where an AUDIT policy wants the request looked at. "-" is none.
// Queries are not logged, for they hold secrets.
// "upstream" is the name of the [Upstream], "app" inbound.
func (b *builder) requestLog(listener string) []*accesslogv3.AccessLog {
	direction, side, upstream := "inbound", "DOWNSTREAM", appCluster
	if name, ok := strings.CutPrefix(listener, "outbound-"); ok {
		direction, side, upstream = "outbound", "UPSTREAM", name
	}
	fields := map[string]string{
		"time":       "%START_TIME%",
		"direction":  direction,
		"upstream":   upstream,
		"peer":       "%" + side + "_PEER_URI_SAN%",
		"tls":        "%" + side + "_TLS_VERSION%",
		"method":     "%REQ(:METHOD)%",
		"path":       thePath,
		"host":       "%REQ(:AUTHORITY)%",
		"code":       "%RESPONSE_CODE%",
		"details":    "%RESPONSE_CODE_DETAILS%",
		"flags":      "%RESPONSE_FLAGS%",
		"failure":    "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
		"ms":         "%DURATION%",
		"received":   "%BYTES_RECEIVED%",
		"sent":       "%BYTES_SENT%",
		"request_id": "%REQ(X-REQUEST-ID)%",
		"source":     "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
		"protocol":   "%PROTOCOL%",
	}
	if direction == "inbound" {
		for key, format := range map[string]string{
			"verdict":       enforcedKeys + "enforced_engine_result",
			"rule":          enforcedKeys + "enforced_effective_policy_id",
			"trial_verdict": trialKeys + "shadow_engine_result",
			"trial_rule":    trialKeys + "shadow_effective_policy_id",
			"audit_rule":    auditKeys + "enforced_effective_policy_id",
		} {
			fields[key] = "%DYNAMIC_METADATA(envoy.filters.http.rbac:" + format + ")%"
		}
		fields["audit"] = "%DYNAMIC_METADATA(envoy.common:access_log_hint)%"
	}
	return []*accesslogv3.AccessLog{b.logger(fields, nil)}
}

// refusalLog is a line for each connection that failed its handshake, which no
// request log ever sees: plaintext, no certificate, an expired one, a stranger.
func (b *builder) refusalLog() []*accesslogv3.AccessLog {
	failed := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslogv3.ExtensionFilter{
		Name: "envoy.access_loggers.extension_filters.cel",
		ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: b.any(&celv3.ExpressionFilter{
			Expression: "connection.transport_failure_reason != ''",
		})},
	}}}
	return []*accesslogv3.AccessLog{b.logger(map[string]string{
		"time":      "%START_TIME%",
		"direction": "refused",
		"peer":      "%DOWNSTREAM_PEER_URI_SAN%",
		"tls":       "%DOWNSTREAM_TLS_VERSION%",
		"failure":   "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
		"source":    "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
		"ms":        "%DURATION%",
	}, failed)}
}

func (b *builder) logger(fields map[string]string, filter *accesslogv3.AccessLogFilter) *accesslogv3.AccessLog {
	object := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(fields))}
	for key, format := range fields {
		object.Fields[key] = structpb.NewStringValue(format)
	}
	format := &corev3.SubstitutionFormatString{
		Format:          &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: object},
		OmitEmptyValues: false,
	}
	log := &accesslogv3.AccessLog{Name: "envoy.access_loggers.stdout", Filter: filter}
	if b.sidecar.AccessLog == "" {
		log.ConfigType = &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.any(&streamv3.StdoutAccessLog{
			AccessLogFormat: &streamv3.StdoutAccessLog_LogFormat{LogFormat: format},
		})}
		return log
	}
	log.Name = "envoy.access_loggers.file"
	log.ConfigType = &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.any(&filev3.FileAccessLog{
		Path:            b.sidecar.AccessLog,
		AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: format},
	})}
	return log
}
