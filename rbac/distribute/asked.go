package distribute

import (
	"maps"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// asked is what one stream has asked for. A manager sends a version once; what
// came of it is gone where the pod was removed and added again, and comes to
// nothing where there was no room. So such pods are asked for again.
type asked struct {
	answers Answers
	pods    map[string]bool
	applied map[string]bool // have been told of, and have taken it
	crowded map[string]bool // refused until there is room
}

func newAsked(to Answers, pods map[string]bool) *asked {
	a := &asked{answers: to, pods: pods, applied: map[string]bool{}, crowded: map[string]bool{}}
	for uid := range pods {
		if to.Version(uid) != "" {
			a.applied[uid] = true
		}
	}
	return a
}

// heard notes what came of a response.
func (a *asked) heard(r reply) {
	for _, uid := range r.applied {
		if a.pods[uid] {
			a.applied[uid] = true
			delete(a.crowded, uid)
		}
	}
	for _, uid := range r.crowded {
		if a.pods[uid] {
			a.crowded[uid] = true
		}
	}
}

// lost are those of pods that took what they were told, and do not have it. They
// are to be asked for again.
func (a *asked) lost(pods []string) []string {
	var again []string
	for _, uid := range pods {
		if a.applied[uid] && a.answers.Version(uid) == "" {
			delete(a.applied, uid)
			again = append(again, uid)
		}
	}
	return again
}

// change is the request after a change of the pods, or of the room that they
// have. Nil: there is nothing to say.
func (a *asked) change(now map[string]bool) *discoveryv3.DeltaDiscoveryRequest {
	request := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: PoliciesType}
	for uid := range a.pods {
		if !now[uid] {
			request.ResourceNamesUnsubscribe = append(request.ResourceNamesUnsubscribe, uid)
			delete(a.applied, uid)
			delete(a.crowded, uid)
		}
	}
	again := a.lost(slices.Collect(maps.Keys(a.applied)))
	again = slices.AppendSeq(again, maps.Keys(a.crowded))
	for uid := range now {
		if !a.pods[uid] {
			again = append(again, uid)
		}
	}
	a.pods, a.crowded = now, map[string]bool{}
	slices.Sort(again)
	slices.Sort(request.ResourceNamesUnsubscribe)
	request.ResourceNamesSubscribe = slices.Compact(again)
	if len(again) == 0 && len(request.ResourceNamesUnsubscribe) == 0 {
		return nil
	}
	return request
}
