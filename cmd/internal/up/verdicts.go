package up

import "net/http"

// verdicts shows what the server's Envoy decided of a request, each time that
// it differs from what was last decided of the same method and path. It is
// called by one goroutine, which reads the access log.
func (r *run) verdicts(line accessLine) {
	request := line.Method + " " + line.Path
	verdict := ""
	switch line.Code {
	case http.StatusOK:
		verdict = kindAllowed
	case http.StatusForbidden:
		verdict = kindDenied
	default:
		return // the client counts it as failed, and tells
	}
	key := verdict
	if verdict == kindDenied {
		key += decider(line.Details)
	}
	if r.lastVerdict == nil {
		r.lastVerdict = map[string]string{}
	}
	if r.lastVerdict[request] == key {
		return
	}
	r.lastVerdict[request] = key
	if verdict == kindAllowed {
		r.view.event(kindAllowed, "%s from %s", request, line.Peer)
		return
	}
	r.view.event(kindDenied, "%s from %s, by %s", request, line.Peer, decider(line.Details))
}
