function OnStableSeries(series, tags, metadata)
  if metadata['RemoteAET'] ~= 'GANTK' then
    RestApiPost('/modalities/GANTK/store', DumpJson({Resources = {series}, Synchronous = false}))
  end
end
