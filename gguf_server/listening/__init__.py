"""What faces the network: TLS, who may call under which name, pages of other origins, and clients that dawdle or crowd.

Nothing here knows of services or engines.
"""
