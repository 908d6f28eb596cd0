"""Comparisons with other libraries on the same data: data sets, peers, runs, reports. Not installed."""
