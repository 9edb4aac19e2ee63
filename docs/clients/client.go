// Package pgvigil asks which server to read from. (Not run by our tests.)
package pgvigil

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// Route is a server to read from.
type Route struct {
	Target   string `json:"target"`
	Host     string `json:"host"`
	Port     uint16 `json:"port"`
	Timeline uint32 `json:"timeline"`
	Fallback bool   `json:"fallback"`
}

// Ask names a server for wish, for example {"lsn": {lsn}, "wait": {"500ms"}, "fallback": {"primary"}}, where lsn is what
// SELECT pg_current_wal_flush_lsn() said on the primary after the commit. On an error read from the primary.
func Ask(ctx context.Context, base, cluster string, wish url.Values) (*Route, error) {
	address := fmt.Sprintf("%s/api/v1/clusters/%s/route?%s", base, url.PathEscape(cluster), wish.Encode())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("pgvigil names no server: %s", answer.Status)
	}
	var route Route
	return &route, json.NewDecoder(answer.Body).Decode(&route)
}
