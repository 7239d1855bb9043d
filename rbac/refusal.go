package rbac

import "fmt"

// A Refusal says why a value of a policy is refused.
type Refusal struct {
	Reason string // a stable code in kebab-case
	Detail string // what is wrong, for the author
}

// Error returns the detail.
func (r *Refusal) Error() string { return r.Detail }

func refuse(reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}
