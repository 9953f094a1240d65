"""The newest runs as MLflow's page "Search Runs" has it; the store is that of MLFLOW_TRACKING_URI.

python mlflow_search.py LIMIT
"""

from __future__ import annotations

import sys

import mlflow

print(mlflow.search_runs(search_all_experiments=True, max_results=int(sys.argv[1])))
