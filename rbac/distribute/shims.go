package distribute

import (
	"encoding/json"
	"errors"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// To be replaced by rbac/parse's as they land.
func wire(data []byte) (rbac.Policy, error) {
	list, err := parse.Policies("policy", data)
	if err != nil || len(list) != 1 {
		return rbac.Policy{}, errors.Join(err, errors.New("not one policy"))
	}
	return list[0], nil
}

func wireRequest(data []byte) (r rbac.RequestAuthentication, err error) {
	return r, json.Unmarshal(data, &r)
}

func requestJSON(r rbac.RequestAuthentication) []byte {
	data, _ := json.Marshal(r)
	return data
}
