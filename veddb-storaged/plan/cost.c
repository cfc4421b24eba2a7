/* veddb-storaged/plan/cost.c — what a plan costs; see plan.h.
 *
 * The unit is one record read in a scan of the collection and matched. The other constants were
 * measured against it by the test plan_choice/costs (VEDDB_COSTS=1; documents of half a kilobyte,
 * everything in the cache; quietest of three runs: key 0.67, fetch 3.6, cover 0.71, sort 0.33, seek
 * 3.6; with documents of 150 bytes a fetch is 8 to 10 scans) and rounded toward the larger
 * documents and the dearer filters that applications have. */
#include "veddb-storaged/plan/plan.h"

#include <math.h>

#define COST_SEEK    4.0  /* into another place of an index */
#define COST_KEY     0.8  /* the next entry */
#define COST_FETCH   3.0  /* the document of an entry, and matching it */
#define COST_COVER   0.8  /* a document made of an entry */
#define COST_SORT    0.3  /* per document and comparison level */
#define COST_SEEN    0.15 /* remembering a document in a union */
#define COST_ID_SEEK 3.0

static double scan_cost(const stor_plan_node_t *node, bool covered)
{
    double seeks = node->bounds->ranges.count;
    return COST_SEEK * seeks + COST_KEY * node->keys +
           (covered ? COST_COVER : COST_FETCH) * node->documents +
           (node->index->multikey != 0 ? COST_SEEN * node->documents : 0);
}

static double node_cost(const stor_plan_node_t *node, bool covered)
{
    double cost = 0;
    switch (node->kind) {
    case STOR_PLAN_EOF:
        return 0;
    case STOR_PLAN_COLLSCAN:
        return node->documents;
    case STOR_PLAN_IDHACK:
    case STOR_PLAN_ID_RANGE:
        return node->documents +
               COST_ID_SEEK * (node->id_bounds == NULL ? 0 : node->id_bounds->count);
    case STOR_PLAN_IXSCAN:
        return scan_cost(node, covered);
    case STOR_PLAN_OR:
    case STOR_PLAN_SORT_MERGE:
        for (uint32_t i = 0; i < node->child_count; i++)
            cost += node_cost(node->children[i], covered);
        cost += COST_SEEN * node->documents;
        if (node->kind == STOR_PLAN_SORT_MERGE)
            cost += COST_SORT * node->documents * (1 + log2(fmax(2, node->child_count)));
        return cost;
    }
    VD_UNREACHABLE();
}

double stor_plan_cost(const stor_plan_node_t *node, bool covered, double sorted, double kept)
{
    double cost = node_cost(node, covered);
    if (sorted > 0)
        cost += COST_SORT * sorted * log2(fmax(2, fmin(sorted, kept > 0 ? kept : sorted)));
    return cost;
}
