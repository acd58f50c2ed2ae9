"""What one key may use: how much per minute and day, of which services, until when, and before whom.

policy       a key's limits, and the defaults behind them
windows      counting over a window of time: pure, the clock is given
meters       which counts a request is held against
memory_store, redis_store    where the counts are kept
limiter      lets a request in, and settles what it really used
spending     what a request used, as far as that is known
headers      what the client is told of it
daily        counts of a day that outlive a restart
"""
