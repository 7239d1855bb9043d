package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AccessRule is an AuthorizationPolicy of one rule, with an expression for what
// its fields cannot say.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=accessrules,categories=istio-auth-io
// +kubebuilder:printcolumn:name=Action,type=string,JSONPath=.spec.action
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=.metadata.creationTimestamp
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 200",message="the name has at most 200 characters"
type AccessRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec AccessRuleSpec `json:"spec"`
}

// AccessRuleList is a list of AccessRule.
//
// +kubebuilder:object:root=true
type AccessRuleList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AccessRule `json:"items"`
}

// AccessRuleSpec matches a request that comes from one of the sources, is one of
// the operations, meets every condition, and satisfies the expression.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.sources) || has(self.operations) || has(self.when) || has(self.expression)",message="a rule needs sources, operations, when or expression"
type AccessRuleSpec struct {
	// Selector says which workloads of the namespace it is for. None means all.
	//
	// +optional
	Selector *Selector `json:"selector,omitempty"`

	// Action is what becomes of a request that the rule matches.
	//
	// +kubebuilder:validation:Enum=ALLOW;DENY;AUDIT
	Action string `json:"action"`

	// Sources are alternatives. None means every source.
	//
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Sources []Source `json:"sources,omitempty"`

	// Operations are alternatives. None means every operation.
	//
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Operations []Operation `json:"operations,omitempty"`

	// When are conditions that all must hold.
	//
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	When []Condition `json:"when,omitempty"`

	// Expression is as of a permission.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Expression string `json:"expression,omitempty"`
}

// Source is what an AuthorizationPolicy has under from. Its fields must all
// match, each by one of its values.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!((has(self.serviceAccounts) || has(self.notServiceAccounts)) && (has(self.principals) || has(self.notPrincipals) || has(self.namespaces) || has(self.notNamespaces)))",message="service accounts cannot stand with principals or namespaces"
// +kubebuilder:validation:XValidation:rule="has(self.principals) || has(self.notPrincipals) || has(self.requestPrincipals) || has(self.notRequestPrincipals) || has(self.namespaces) || has(self.notNamespaces) || has(self.serviceAccounts) || has(self.notServiceAccounts) || has(self.trustDomains) || has(self.notTrustDomains) || has(self.ipBlocks) || has(self.notIpBlocks) || has(self.remoteIpBlocks) || has(self.notRemoteIpBlocks)",message="a source needs a field"
type Source struct {
	// +optional
	Principals Values `json:"principals,omitempty"`
	// +optional
	NotPrincipals Values `json:"notPrincipals,omitempty"`
	// +optional
	RequestPrincipals Values `json:"requestPrincipals,omitempty"`
	// +optional
	NotRequestPrincipals Values `json:"notRequestPrincipals,omitempty"`
	// +optional
	Namespaces Values `json:"namespaces,omitempty"`
	// +optional
	NotNamespaces Values `json:"notNamespaces,omitempty"`
	// +optional
	ServiceAccounts Values `json:"serviceAccounts,omitempty"`
	// +optional
	NotServiceAccounts Values `json:"notServiceAccounts,omitempty"`
	// +optional
	TrustDomains Values `json:"trustDomains,omitempty"`
	// +optional
	NotTrustDomains Values `json:"notTrustDomains,omitempty"`
	// +optional
	IPBlocks Values `json:"ipBlocks,omitempty"`
	// +optional
	NotIPBlocks Values `json:"notIpBlocks,omitempty"`
	// +optional
	RemoteIPBlocks Values `json:"remoteIpBlocks,omitempty"`
	// +optional
	NotRemoteIPBlocks Values `json:"notRemoteIpBlocks,omitempty"`
}
